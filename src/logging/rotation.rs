//! Log files, and when a new one is begun.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flexi_logger::writers::{ArcFileLogWriter, FileLogWriter, FileLogWriterHandle};
use flexi_logger::{Cleanup, Criterion, FileSpec, Naming, WriteMode};

use crate::logging::LogError;

/// How many closed files stay if nothing is said.
const KEEP_DEFAULT: usize = 10;
/// What flexi_logger puts into the name of the file being written, if it rotates.
const CURRENT_INFIX: &str = "_rCURRENT";

/// When the clock alone begins a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// With each hour of the local clock.
    Hour,
    /// With each day of the local clock.
    Day,
}

/// When a new file is begun, and how many old ones stay.
///
/// As text: `size=10M,age=day,keep=7`, of which a size or an age must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file larger than this is closed, in bytes.
    pub size_bytes: Option<u64>,
    /// Whether the clock closes a file.
    pub age: Option<Age>,
    /// Closed files that stay; older ones are removed. Default 10.
    pub keep: usize,
}

impl FromStr for Rotation {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Rotation, LogError> {
        let wrong = |reason: String| LogError::Syntax {
            what: "log rotation",
            text: text.into(),
            reason,
        };
        let (mut size_bytes, mut age, mut keep) = (None, None, None);
        for part in text.split(',').map(str::trim) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(format!("`{part}`: size=N, age=hour|day or keep=N")))?;
            let twice =
                match key.trim() {
                    "size" => size_bytes
                        .replace(bytes(value.trim()).map_err(wrong)?)
                        .is_some(),
                    "age" => age.replace(age_of(value.trim()).map_err(wrong)?).is_some(),
                    "keep" => keep
                        .replace(value.trim().parse().map_err(|_| {
                            wrong(format!("keep: `{value}` is not a number of files"))
                        })?)
                        .is_some(),
                    other => return Err(wrong(format!("`{other}`: there are size, age, keep"))),
                };
            if twice {
                return Err(wrong(format!("`{key}` is given twice")));
            }
        }
        if size_bytes.is_none() && age.is_none() {
            return Err(wrong("a size or an age must be given".into()));
        }
        Ok(Rotation {
            size_bytes,
            age,
            keep: keep.unwrap_or(KEEP_DEFAULT),
        })
    }
}

fn age_of(text: &str) -> Result<Age, String> {
    match text {
        "hour" => Ok(Age::Hour),
        "day" => Ok(Age::Day),
        _ => Err(format!("age: `{text}` is neither hour nor day")),
    }
}

/// `512`, `64K`, `10M` or `1G`, in powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("size: `{text}` is not a size like 10M"))
}

/// The file behind a log; it is closed in order when the handle is dropped.
pub(super) struct LogFile {
    pub(super) writer: ArcFileLogWriter,
    pub(super) path: PathBuf,
    _handle: FileLogWriterHandle,
}

/// Opens the file of a log, makes its directory.
pub(super) fn open(path: &Path, rotation: Option<&Rotation>) -> Result<LogFile, LogError> {
    let io = |source| LogError::Io {
        path: path.to_path_buf(),
        source,
    };
    // flexi_logger opens with the first line, and would tell nobody but stderr.
    let current = current_path(path, rotation.is_some());
    if let Some(directory) = current.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(io)?;
    }
    let opened = OpenOptions::new().append(true).create(true).open(&current);
    drop(opened.map_err(io)?);

    let spec = FileSpec::try_from(path).map_err(|e| LogError::Start(e.to_string()))?;
    let mut builder = FileLogWriter::builder(spec)
        .append()
        .write_mode(WriteMode::BufferDontFlush);
    if let Some(rotation) = rotation {
        builder = builder.rotate(
            criterion(rotation),
            Naming::Numbers,
            Cleanup::KeepLogFiles(rotation.keep),
        );
    }
    let (writer, handle) = builder
        .try_build_with_handle()
        .map_err(|e| LogError::Start(format!("{}: {e}", path.display())))?;
    Ok(LogFile {
        writer,
        path: current,
        _handle: handle,
    })
}

fn criterion(rotation: &Rotation) -> Criterion {
    let age = rotation.age.map(|age| match age {
        Age::Hour => flexi_logger::Age::Hour,
        Age::Day => flexi_logger::Age::Day,
    });
    match (age, rotation.size_bytes) {
        (Some(age), Some(size)) => Criterion::AgeOrSize(age, size),
        (Some(age), None) => Criterion::Age(age),
        (None, size) => Criterion::Size(size.unwrap_or(u64::MAX)),
    }
}

/// Where the lines go at the moment.
fn current_path(path: &Path, rotates: bool) -> PathBuf {
    if !rotates {
        return path.to_path_buf();
    }
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(CURRENT_INFIX);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_understood() {
        let rotation: Rotation = "size=10M,age=day,keep=7".parse().unwrap();
        assert_eq!(rotation.size_bytes, Some(10 << 20));
        assert_eq!(rotation.age, Some(Age::Day));
        assert_eq!(rotation.keep, 7);
        let rotation: Rotation = " age = hour ".parse().unwrap();
        assert_eq!((rotation.size_bytes, rotation.keep), (None, KEEP_DEFAULT));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, part) in [
            ("", "size=N"),
            ("10M", "`10M`"),
            ("keep=3", "a size or an age"),
            ("size=0", "`0`"),
            ("size=x", "`x`"),
            ("size=99999999999G", "size:"),
            ("age=year", "`year`"),
            ("size=1,size=2", "twice"),
            ("size=1,keep=-1", "keep"),
            ("size=1,colour=red", "`colour`"),
        ] {
            let error = text.parse::<Rotation>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
