//! How far long work has come, on standard error, and only where a person sees it.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar while it lives; nothing where standard error is no terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// Of so many steps of what is named.
    pub fn of(steps: usize, what: &'static str) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(u64::try_from(steps).ok(), target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} {msg}, {eta} to go") {
            bar.set_style(style);
        }
        // Drawn at once: the first step may be a long one.
        bar.tick();
        Self(bar)
    }

    /// One step has begun.
    pub fn step(&self) {
        self.0.inc(1);
    }

    /// Lets something be printed where the bar is.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
