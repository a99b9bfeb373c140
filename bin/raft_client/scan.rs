//! `scan`: page after page, printed as they come.

use std::fmt::Write as _;

use bytes::Bytes;
use raftkv::client::{Client, ClientError, Page, Range};
use serde::Serialize;

/// How entries are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line an entry, key and value apart by a tab, both made printable.
    Lines,
    /// A line an entry that `batch` reads as an update.
    Batch,
    /// The bytes of the key, a line end, the bytes of the value, a line end.
    Raw,
    /// One object for all.
    Json,
}

/// What a scan asks for, and how much of it.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The keys.
    pub range: Range,
    /// Entries in all; `None` for no end.
    pub limit: Option<u64>,
    /// How to print them.
    pub form: Form,
}

/// Why a scan did not come to its end.
pub enum Stopped {
    /// By the store or the way there.
    Store(ClientError),
    /// The result could not be printed.
    Output(std::io::Error),
}

impl Scan {
    /// Reads pages until there are no more entries, or enough. Hands `print` what is to be
    /// printed after each, and returns the key at which there is more.
    pub fn run(
        mut self,
        client: &mut Client,
        mut print: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<Option<Bytes>, Stopped> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut is_first = true;
        if self.form == Form::Json {
            print(b"{\"entries\":[").map_err(Stopped::Output)?;
        }
        let next = loop {
            self.range.entries_max = u32::try_from(left).unwrap_or(u32::MAX);
            let Page { entries, next } = client.scan(self.range.clone()).map_err(Stopped::Store)?;
            left = left.saturating_sub(entries.len() as u64);
            let mut text = Vec::new();
            for (key, value) in &entries {
                self.form.entry(&mut text, key, value, is_first);
                is_first = false;
            }
            print(&text).map_err(Stopped::Output)?;
            match next {
                Some(next) if left > 0 => self.range.from = next,
                next => break next,
            }
        };
        if self.form == Form::Json {
            let end = Text::of("next", next.as_ref());
            let end = serde_json::to_string(&end).expect("plain text");
            // An object by itself: its fields become those of the whole.
            let text = format!("],{}\n", &end[1..]);
            print(text.as_bytes()).map_err(Stopped::Output)?;
        }
        Ok(next)
    }
}

impl Form {
    fn entry(self, out: &mut Vec<u8>, key: &Bytes, value: &Bytes, is_first: bool) {
        match self {
            Form::Lines => {
                let line = format!("{}\t{}\n", printable(key), printable(value));
                out.extend_from_slice(line.as_bytes());
            }
            Form::Batch => {
                let line = format!("update {} {}\n", quoted(key), quoted(value));
                out.extend_from_slice(line.as_bytes());
            }
            Form::Raw => {
                for bytes in [key, value] {
                    out.extend_from_slice(bytes);
                    out.push(b'\n');
                }
            }
            Form::Json => {
                if !is_first {
                    out.push(b',');
                }
                let fields = Fields {
                    key: Text::of("key", Some(key)),
                    value: Text::of("value", Some(value)),
                };
                serde_json::to_writer(out, &fields).expect("plain text into memory");
            }
        }
    }
}

#[derive(Serialize)]
struct Fields {
    #[serde(flatten)]
    key: Text,
    #[serde(flatten)]
    value: Text,
}

/// A field `NAME` with text; for bytes that are none, `NAME_hex` with their digits.
struct Text {
    name: String,
    text: Option<String>,
}

impl Text {
    fn of(name: &str, bytes: Option<&Bytes>) -> Text {
        let text = bytes.map(|bytes| std::str::from_utf8(bytes));
        match text {
            None => Text {
                name: name.to_owned(),
                text: None,
            },
            Some(Ok(text)) => Text {
                name: name.to_owned(),
                text: Some(text.to_owned()),
            },
            Some(Err(_)) => Text {
                name: format!("{name}_hex"),
                text: bytes.map(|bytes| format!("{bytes:x}")),
            },
        }
    }
}

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(&self.name, &self.text)])
    }
}

/// The bytes on one line, without tabs, in the escapes that `batch` reads: control characters,
/// the backslash, and bytes that are not UTF-8.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            match byte {
                b'\n' => text.push_str("\\n"),
                b'\r' => text.push_str("\\r"),
                b'\t' => text.push_str("\\t"),
                b'\\' => text.push_str("\\\\"),
                byte => write!(text, "\\x{byte:02x}").expect("writing to a string"),
            }
        }
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                escape(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// One word of a line of `batch`.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", printable(bytes).replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use raftkv::client::WriteOp;

    use super::*;
    use crate::batch;

    #[test]
    fn an_entry_is_one_line_whatever_its_bytes() {
        assert_eq!(printable("grün \"x\"".as_bytes()), "grün \"x\"");
        assert_eq!(printable(b"a\tb\nc\\d"), "a\\tb\\nc\\\\d");
        assert_eq!(printable(b"\xff\x00"), "\\xff\\x00");
        assert_eq!(printable("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn what_is_printed_for_a_batch_is_read_back_as_it_was() {
        let all: Vec<u8> = (0..=255).collect();
        let words: [&[u8]; 6] = [
            b"plain",
            b"",
            b" two words ",
            b"\"quoted\" \\ \n\r\t\0",
            "grün \u{85}\u{2028}".as_bytes(),
            &all,
        ];
        let (mut lines, mut expected) = (Vec::new(), Vec::new());
        for word in words.into_iter().map(Bytes::copy_from_slice) {
            Form::Batch.entry(&mut lines, &word, &word, false);
            expected.push(WriteOp::Update {
                key: word.clone(),
                value: word,
            });
        }
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 6);
        assert_eq!(batch::read(&lines[..]), Ok(expected));
    }
}
