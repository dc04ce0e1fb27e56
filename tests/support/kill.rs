//! Processes ended in the middle of what they do, as by a power cut or a scheduler without patience.

use std::io::Read;
use std::process::Child;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Kills a process, whose standard error is piped, when `told` says `true` or has said nothing for so long. Through `tell`, `told` also hears
/// `false` when the process has ended by itself. Answers whether it was killed before that.
pub(crate) fn kill_when(mut child: Child, tell: Sender<bool>, told: &Receiver<bool>, within: Duration) -> bool {
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // The pipe is closed when the process has ended.
        let _ = stderr.read_to_end(&mut text);
        let _ = tell.send(false);
    });
    let killed = told.recv_timeout(within).unwrap_or(true);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    reader.join().unwrap();
    killed && !status.success()
}

/// Waits until the process ends, or for so long; then it is killed. Answers whether it was.
pub(crate) fn kill_after(child: Child, delay: Duration) -> bool {
    let (tell, told) = channel();
    kill_when(child, tell, &told, delay)
}
