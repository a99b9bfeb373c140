//! What a line is made of.

use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;

use flexi_logger::DeferredNow;
use log::{Level, Record};

use crate::logging::LogError;

/// The original's line.
const DEFAULT: &str = "[%n][%t][%l] %v";
/// As C's `ctime`, without its newline.
const CTIME: &str = "%a %b %e %H:%M:%S %Y";
/// ISO 8601, local time with its offset.
const ISO_8601: &str = "%Y-%m-%dT%H:%M:%S%.6f%:z";
/// A line is cut behind this, so that no message can fill queue and disk alone, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A line with places for its parts.
///
/// | | |
/// |---|---|
/// | `%n` | the module's name (the log target) |
/// | `%t` | local time as C's `ctime` writes it: `Mon Nov 23 12:53:11 2026` |
/// | `%T` | local time in ISO 8601 with microseconds |
/// | `%l`, `%L` | the level, `debug` or `DEBUG` |
/// | `%v` | the message |
/// | `%P` | the name of the thread, or its number |
/// | `%p` | the id of the process |
/// | `%%` | `%` |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name,
    Ctime,
    Iso8601,
    LowerLevel,
    UpperLevel,
    Message,
    Thread,
    Process,
}

impl Default for Pattern {
    fn default() -> Pattern {
        DEFAULT.parse().expect("the default pattern is one")
    }
}

impl FromStr for Pattern {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Pattern, LogError> {
        let wrong = |reason: String| LogError::Syntax {
            what: "log pattern",
            text: text.into(),
            reason,
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match c {
                '%' => match chars.next() {
                    Some('%') => {
                        literal.push('%');
                        continue;
                    }
                    Some(letter) => place(letter).ok_or_else(|| {
                        wrong(format!(
                            "`%{letter}` is unknown; there are %n %t %T %l %L %v %P %p %%"
                        ))
                    })?,
                    None => return Err(wrong("it ends with a lone `%`; write `%%`".into())),
                },
                '\n' | '\r' => return Err(wrong("a line break would make two lines".into())),
                c => {
                    literal.push(c);
                    continue;
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if !parts.contains(&Part::Message) {
            return Err(wrong("without `%v` no message would be logged".into()));
        }
        Ok(Pattern { parts })
    }
}

fn place(letter: char) -> Option<Part> {
    Some(match letter {
        'n' => Part::Name,
        't' => Part::Ctime,
        'T' => Part::Iso8601,
        'l' => Part::LowerLevel,
        'L' => Part::UpperLevel,
        'v' => Part::Message,
        'P' => Part::Thread,
        'p' => Part::Process,
        _ => return None,
    })
}

impl Pattern {
    /// The line, with its newline and no other: what a message quotes from outside
    /// cannot forge a second one.
    pub(super) fn line(&self, now: &mut DeferredNow, record: &Record<'_>) -> io::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(160);
        for part in &self.parts {
            match part {
                Part::Text(text) => line.extend_from_slice(text.as_bytes()),
                Part::Name => line.extend_from_slice(record.target().as_bytes()),
                Part::Ctime => write!(line, "{}", now.format(CTIME))?,
                Part::Iso8601 => write!(line, "{}", now.format(ISO_8601))?,
                Part::LowerLevel => line.extend_from_slice(lower(record.level()).as_bytes()),
                Part::UpperLevel => line.extend_from_slice(record.level().as_str().as_bytes()),
                Part::Message => message(&mut line, record.args())?,
                Part::Thread => thread(&mut line)?,
                Part::Process => write!(line, "{}", std::process::id())?,
            }
        }
        line.push(b'\n');
        Ok(line)
    }
}

fn lower(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn message(line: &mut Vec<u8>, args: &fmt::Arguments<'_>) -> io::Result<()> {
    let start = line.len();
    write!(line, "{args}")?;
    for byte in &mut line[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    if line.len() > LINE_BYTES_MAX {
        line.truncate(LINE_BYTES_MAX);
        line.extend_from_slice("…".as_bytes());
    }
    Ok(())
}

fn thread(line: &mut Vec<u8>) -> io::Result<()> {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) => line.extend_from_slice(name.as_bytes()),
        None => write!(line, "{:?}", thread.id())?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pattern: &str, target: &str, args: fmt::Arguments<'_>) -> String {
        let record = Record::builder()
            .target(target)
            .level(Level::Warn)
            .args(args)
            .build();
        let pattern: Pattern = pattern.parse().unwrap();
        let line = pattern.line(&mut DeferredNow::new(), &record).unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    #[test]
    fn default_line_has_the_form_of_the_original() {
        let text = line(DEFAULT, "Raft", format_args!("win the election"));
        let rest = text.strip_prefix("[Raft][").unwrap();
        let (time, rest) = rest.split_once(']').unwrap();
        assert_eq!(rest, "[warn] win the election\n");
        // `Mon Nov 23 12:53:11 2026`, the day padded with a blank.
        assert_eq!(time.len(), 24, "{time}");
        let day = &time[8..10];
        assert!(day.trim_start().parse::<u8>().is_ok_and(|day| day <= 31));
        for (at, separator) in [
            (3, " "),
            (7, " "),
            (10, " "),
            (13, ":"),
            (16, ":"),
            (19, " "),
        ] {
            assert_eq!(&time[at..=at], separator, "{time}");
        }
    }

    #[test]
    fn every_place_is_filled() {
        let text = line("%L %l %n %% %p %T|%v", "Wal", format_args!("x={}", 1));
        let expected = format!("WARN warn Wal % {} ", std::process::id());
        let rest = text.strip_prefix(expected.as_str()).unwrap();
        let (time, message) = rest.split_once('|').unwrap();
        assert_eq!(message, "x=1\n");
        assert_eq!(time.len(), "2026-11-23T12:53:11.123456+00:00".len());
        let text = line("%P:%v", "Wal", format_args!("m"));
        assert!(text.ends_with(":m\n") && text.contains("every_place_is_filled"));
    }

    #[test]
    fn a_message_cannot_forge_a_second_line() {
        assert_eq!(
            line("%v", "Net", format_args!("a\r\n[Raft] b")),
            "a  [Raft] b\n"
        );
    }

    #[test]
    fn a_huge_message_is_cut() {
        let text = line("%v", "Net", format_args!("{}", "é".repeat(LINE_BYTES_MAX)));
        assert!(text.len() < LINE_BYTES_MAX + 16 && text.ends_with("…\n"));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("%v %x", "`%x`"),
            ("%v %", "lone"),
            ("%n", "%v"),
            ("%v\n", "line"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
