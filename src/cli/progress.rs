//! Progress: bars when stderr is a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::note;
use crate::fetch::{Progress as Fetched, Step};
use crate::sync::Progress;

/// A plain line tells of every so many records.
const LINE_EVERY_RECORDS: u64 = 100_000;
const LINE_EVERY_BYTES: u64 = 32 << 20;
/// And of every so much time while texts are embedded, which is slow.
const LINE_EVERY: Duration = Duration::from_secs(30);

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
    tokens: u64,
    said: u64,
    last: Instant,
    /// How many records there are, where it is known.
    expected: Option<u64>,
}

impl State {
    fn new(expected: Option<u64>) -> Self {
        let now = Instant::now();
        Self { began: now, records: 0, texts: 0, tokens: 0, said: 0, last: now, expected }
    }

    /// How far it is, how fast, and how long it takes.
    #[expect(clippy::cast_precision_loss, reason = "rates for the eye")]
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let rate = |count: u64| count as f64 / seconds;
        let of = self.expected.map_or_else(String::new, |all| format!(" of {all}"));
        let mut line = format!(
            "{}{of} records ({:.0}/s), {} texts ({:.0}/s)",
            self.records,
            rate(self.records),
            self.texts,
            rate(self.texts)
        );
        if self.tokens > 0 {
            line = format!("{line}, {} tokens ({:.0}/s)", self.tokens, rate(self.tokens));
        }
        match self.expected {
            Some(all) if self.records > 0 => {
                format!("{line}, {:.0} s left", all.saturating_sub(self.records) as f64 / rate(self.records))
            }
            _ => line,
        }
    }
}

impl Syncing {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {msg}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, state: Mutex::new(State::new(None)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn show(&self, table: &str) {
        let line = self.state().line();
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{table}: {line}"));
        }
    }
}

impl Progress for Syncing {
    fn table(&self, table: &str, strategy: &str, records: Option<u64>) {
        *self.state() = State::new(records);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{table}: reading by {strategy}")),
            None => note(&format!("{table}: reading by {strategy}")),
        }
        self.show(table);
    }

    fn records(&self, table: &str, count: u64) {
        let line = {
            let mut state = self.state();
            state.records += count;
            let many = state.records >= state.said + LINE_EVERY_RECORDS;
            let slow = state.texts > 0 && state.last.elapsed() >= LINE_EVERY;
            (many || slow).then(|| {
                (state.said, state.last) = (state.records, Instant::now());
                state.line()
            })
        };
        if let Some(line) = line.filter(|_| self.bar.is_none()) {
            note(&format!("{table}: {line}"));
        }
        self.show(table);
    }

    fn texts(&self, count: u64, tokens: u64) {
        let mut state = self.state();
        state.texts += count;
        state.tokens += tokens;
    }

    fn phase(&self, collection: &str, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("{collection}: {what}")),
            None => note(&format!("{collection}: {what}")),
        }
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
