//! Keeps bad input from filling the disk with log lines about it.

use std::fmt;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// Admits so many lines in a window of time for each reason.
#[derive(Debug)]
pub struct RateLimit {
    window: Duration,
    lines: u32,
    // Reasons are literals in the code, so there are few.
    windows: Vec<(&'static str, Window)>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    admitted: u32,
    dropped: u64,
}

/// What an admitted line says at its end: how many were dropped before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped(pub u64);

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more like this were not logged)"),
        }
    }
}

impl RateLimit {
    /// A limit of lines a second, for each reason on its own.
    #[must_use]
    pub fn new(lines_per_second: u32) -> RateLimit {
        RateLimit::within(SECOND, lines_per_second)
    }

    /// A limit of lines in each `window`, for each reason on its own.
    #[must_use]
    pub fn within(window: Duration, lines: u32) -> RateLimit {
        RateLimit {
            window,
            lines,
            windows: Vec::new(),
        }
    }

    /// Whether a line about `reason` may be written now, and how many were not since
    /// the last one that was.
    pub fn admit(&mut self, reason: &'static str, now: Instant) -> Option<Dropped> {
        let at = match self.windows.iter().position(|(known, _)| *known == reason) {
            Some(at) => at,
            None => {
                let window = Window {
                    start: now,
                    admitted: 0,
                    dropped: 0,
                };
                self.windows.push((reason, window));
                self.windows.len() - 1
            }
        };
        let window = &mut self.windows[at].1;
        if now.saturating_duration_since(window.start) >= self.window {
            window.start = now;
            window.admitted = 0;
        }
        if window.admitted >= self.lines {
            window.dropped += 1;
            return None;
        }
        window.admitted += 1;
        Some(Dropped(std::mem::take(&mut window.dropped)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_rate_and_says_how_much_was_dropped() {
        let start = Instant::now();
        let mut limit = RateLimit::new(2);
        assert_eq!(limit.admit("magic", start), Some(Dropped(0)));
        assert_eq!(limit.admit("magic", start), Some(Dropped(0)));
        for _ in 0..5 {
            assert_eq!(limit.admit("magic", start), None);
        }
        assert_eq!(limit.admit("length", start), Some(Dropped(0)));
        let later = start + SECOND;
        assert_eq!(limit.admit("magic", later), Some(Dropped(5)));
        assert_eq!(limit.admit("magic", later), Some(Dropped(0)));
        assert_eq!(limit.admit("magic", later), None);
    }
}
