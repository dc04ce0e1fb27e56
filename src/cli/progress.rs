//! Progress: bars when stderr is a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::note;
use crate::fetch::{Progress as Fetched, Step};
use crate::sync::Progress;

/// A plain line tells of every so many records.
const LINE_EVERY_RECORDS: u64 = 100_000;
const LINE_EVERY_BYTES: u64 = 32 << 20;

/// Progress of fetching.
pub(super) struct Fetching {
    bar: Option<ProgressBar>,
    said: String,
    last: u64,
}

impl Fetching {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(style("{msg:36} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
            bar
        });
        Self { bar, said: String::new(), last: 0 }
    }

    pub(super) fn update(&mut self, progress: &Fetched<'_>) {
        let verb = match progress.step {
            Step::Waiting => "waiting for another run to fetch",
            Step::Downloading => "downloading",
            Step::Unpacking => "unpacking",
            Step::Verifying => "verifying",
        };
        let what = format!("{verb} {}", progress.item);
        if let Some(bar) = &self.bar {
            bar.set_message(what);
            bar.set_length(progress.total.max(progress.done));
            bar.set_position(progress.done);
            return;
        }
        if self.said != what || progress.done >= self.last + LINE_EVERY_BYTES {
            let of = if progress.total > 0 { format!(" of {} MB", progress.total >> 20) } else { String::new() };
            note(&format!("{what}: {} MB{of}", progress.done >> 20));
            self.last = progress.done;
            self.said = what;
        }
    }

    /// Takes the bar away. Answers whether there was anything on it.
    pub(super) fn finish(&self) -> bool {
        let shown = self.bar.as_ref().is_some_and(|bar| bar.length().is_some_and(|l| l > 0));
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        shown
    }
}

/// Progress of a sync.
#[derive(Debug)]
pub(super) struct Syncing {
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    records: u64,
    texts: u64,
    said: u64,
    /// How many records there are, where it is known.
    expected: Option<u64>,
}

impl Syncing {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {msg}"));
            bar.enable_steady_tick(std::time::Duration::from_millis(120));
            bar
        });
        Self { bar, state: Mutex::new(State { began: Instant::now(), records: 0, texts: 0, said: 0, expected: None }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn show(&self, table: &str) {
        let state = self.state();
        let Some(bar) = &self.bar else { return };
        let seconds = state.began.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
        let (records, texts) = (state.records as f64 / seconds, state.texts as f64 / seconds);
        let of = state.expected.map_or_else(String::new, |all| format!(" of {all}"));
        #[expect(clippy::cast_precision_loss, reason = "a time for the eye")]
        let left = match state.expected {
            Some(all) if records > 0.0 => format!(", {:.0} s left", all.saturating_sub(state.records) as f64 / records),
            _ => String::new(),
        };
        let so_far = format!("{}{of} records ({records:.0}/s), {} texts ({texts:.0}/s)", state.records, state.texts);
        bar.set_message(format!("{table}: {so_far}{left}"));
    }
}

impl Progress for Syncing {
    fn table(&self, table: &str, strategy: &str, records: Option<u64>) {
        *self.state() = State { began: Instant::now(), records: 0, texts: 0, said: 0, expected: records };
        match &self.bar {
            Some(bar) => bar.set_message(format!("{table}: reading by {strategy}")),
            None => note(&format!("{table}: reading by {strategy}")),
        }
        self.show(table);
    }

    fn records(&self, table: &str, count: u64) {
        let (records, line) = {
            let mut state = self.state();
            state.records += count;
            let line = state.records >= state.said + LINE_EVERY_RECORDS;
            if line {
                state.said = state.records;
            }
            (state.records, line)
        };
        if self.bar.is_none() && line {
            note(&format!("{table}: {records} records"));
        }
        self.show(table);
    }

    fn texts(&self, count: u64, _tokens: u64) {
        self.state().texts += count;
    }

    fn done(&self, table: &str) {
        let records = self.state().records;
        match &self.bar {
            Some(bar) => bar.set_message(format!("{table}: done, {records} records")),
            None => note(&format!("{table}: done, {records} records")),
        }
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
