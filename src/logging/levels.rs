//! Which lines are written: a default level, and others for named modules.

use std::fmt;
use std::str::FromStr;

use log::{Level, LevelFilter};

use crate::logging::LogError;

/// A default level and exceptions: `info,Raft=debug,Wal=off`.
///
/// A name speaks for the target of that very name and for what is below it
/// (`Raft` for `Raft::election`, not for `RaftRpc`); the longest one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    default: LevelFilter,
    /// The longest name first.
    modules: Vec<(String, LevelFilter)>,
}

impl Default for Levels {
    /// `info` for all. The original writes its lines as `debug`.
    fn default() -> Levels {
        Levels {
            default: LevelFilter::Info,
            modules: Vec::new(),
        }
    }
}

impl Levels {
    /// Whether a line of this target and level is written.
    #[must_use]
    pub fn allow(&self, target: &str, level: Level) -> bool {
        let found = self.modules.iter().find(|(name, _)| {
            let rest = target.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        level <= found.map_or(self.default, |&(_, filter)| filter)
    }

    /// The most talkative of them.
    pub(super) fn max(&self) -> LevelFilter {
        let modules = self.modules.iter().map(|&(_, filter)| filter);
        modules.fold(self.default, Ord::max)
    }
}

impl FromStr for Levels {
    type Err = LogError;

    /// Parts in any order, separated by commas: one `LEVEL` for the default (`info`
    /// if there is none), `NAME=LEVEL` for the rest.
    fn from_str(text: &str) -> Result<Levels, LogError> {
        let wrong = |reason: String| LogError::Syntax {
            what: "log level",
            text: text.into(),
            reason,
        };
        let mut default = None;
        let mut modules: Vec<(String, LevelFilter)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            if let Some((name, level)) = part.split_once('=') {
                let (name, filter) = (name.trim(), level_filter(level.trim()).map_err(wrong)?);
                if !is_name(name) {
                    return Err(wrong(format!("`{name}` is not the name of a module")));
                }
                if modules.iter().any(|(other, _)| other == name) {
                    return Err(wrong(format!("`{name}` is given twice")));
                }
                modules.push((name.into(), filter));
            } else if default
                .replace(level_filter(part).map_err(wrong)?)
                .is_some()
            {
                return Err(wrong("the default is given twice".into()));
            }
        }
        if default.is_none() && modules.is_empty() {
            return Err(wrong(format!("nothing is given; {LEVELS}")));
        }
        modules.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Ok(Levels {
            default: default.unwrap_or(Levels::default().default),
            modules,
        })
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(self.default))?;
        for (name, filter) in &self.modules {
            write!(f, ",{name}={}", name_of(*filter))?;
        }
        Ok(())
    }
}

const LEVELS: &str = "levels are off, error, warn, info, debug, trace";

fn level_filter(text: &str) -> Result<LevelFilter, String> {
    LevelFilter::iter()
        .find(|filter| name_of(*filter).eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is not a level; {LEVELS}"))
}

fn name_of(filter: LevelFilter) -> &'static str {
    match filter {
        LevelFilter::Off => "off",
        LevelFilter::Error => "error",
        LevelFilter::Warn => "warn",
        LevelFilter::Info => "info",
        LevelFilter::Debug => "debug",
        LevelFilter::Trace => "trace",
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
}

/// The words of a levels file without its comments, lines joined by commas.
pub(super) fn strip_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    lines.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> Levels {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_speaks_for_itself_and_below_but_not_for_longer_names() {
        let levels = levels("warn, Raft=debug, Raft::election=trace");
        assert!(levels.allow("Raft", Level::Debug));
        assert!(!levels.allow("Raft", Level::Trace));
        assert!(levels.allow("Raft::log", Level::Debug));
        assert!(levels.allow("Raft::election", Level::Trace));
        assert!(!levels.allow("RaftRpc", Level::Info));
        assert!(levels.allow("RaftRpc", Level::Warn));
        assert_eq!(levels.max(), LevelFilter::Trace);
    }

    #[test]
    fn levels_read_back_as_they_print() {
        for text in ["off", "info,Raft=debug", "trace,RaftRpc=off,Raft=error"] {
            assert_eq!(levels(text).to_string(), text);
        }
        assert_eq!(levels("Raft=DEBUG").to_string(), "info,Raft=debug");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("", "nothing"),
            ("loud", "`loud` is not a level"),
            ("info,debug", "twice"),
            ("Raft=info,Raft=debug", "`Raft` is given twice"),
            ("a b=info", "`a b`"),
            ("Raft=", "`` is not a level"),
        ] {
            let error = text.parse::<Levels>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_levels_file_has_lines_and_comments() {
        let text = strip_comments("# all\ninfo # quiet\n\nRaft=debug\n");
        assert_eq!(levels(&text).to_string(), "info,Raft=debug");
    }
}
