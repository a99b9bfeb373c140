//! `batch`: operations from arguments, or from the lines of stdin.
//!
//! An operation is its name and as many words as it takes, so one may follow the other. On a
//! line of stdin words stand between blanks; what has blanks in it stands between double
//! quotes, and `\n`, `\r`, `\t`, `\0`, `\\`, `\"` and `\xNN` stand for one byte each.

use std::io::Read;

use bytes::Bytes;
use raftkv::client::WriteOp;
use raftkv::limits::COMMAND_BYTES_MAX;

/// What stdin may have: the longest batch, each byte of it as `\xNN`.
const INPUT_BYTES_MAX: usize = 4 * COMMAND_BYTES_MAX;

/// The operations that the words say, one behind the other.
pub fn parse(words: Vec<Bytes>) -> Result<Vec<WriteOp>, String> {
    let mut operations = Vec::new();
    let mut words = words.into_iter();
    while let Some(name) = words.next() {
        operations.push(operation(&name, &mut words)?);
    }
    Ok(operations)
}

/// The operations on the lines of `input`; lines without words do not count.
pub fn read(input: impl Read) -> Result<Vec<WriteOp>, String> {
    let mut text = Vec::new();
    input
        .take(INPUT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| format!("cannot read the batch from stdin: {e}"))?;
    if text.len() > INPUT_BYTES_MAX {
        return Err(format!("the batch is longer than {INPUT_BYTES_MAX} bytes"));
    }
    let mut operations = Vec::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let of_line = words(line)
            .and_then(parse)
            .map_err(|why| format!("line {number}: {why}"))?;
        if of_line.len() > 1 {
            return Err(format!("line {number}: more than one operation"));
        }
        operations.extend(of_line);
    }
    Ok(operations)
}

fn operation(name: &[u8], words: &mut impl Iterator<Item = Bytes>) -> Result<WriteOp, String> {
    let mut next = |what| {
        let name = name.escape_ascii();
        words.next().ok_or_else(|| format!("`{name}` needs {what}"))
    };
    Ok(match name {
        b"put" => WriteOp::Put {
            key: next("a key")?,
            value: next("a value")?,
        },
        b"update" => WriteOp::Update {
            key: next("a key")?,
            value: next("a value")?,
        },
        b"remove" | b"delete" => WriteOp::Remove {
            key: next("a key")?,
        },
        b"cas" => WriteOp::Cas {
            key: next("a key")?,
            expected: Some(next("an expected value")?),
            new: Some(next("a new value")?),
        },
        b"cas-absent" => WriteOp::Cas {
            key: next("a key")?,
            expected: None,
            new: Some(next("a new value")?),
        },
        b"cas-remove" => WriteOp::Cas {
            key: next("a key")?,
            expected: Some(next("an expected value")?),
            new: None,
        },
        _ => {
            let name = name.escape_ascii();
            return Err(format!("`{name}` is not an operation of a batch"));
        }
    })
}

/// The words of a line.
fn words(line: &[u8]) -> Result<Vec<Bytes>, String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' | b'\t' | b'\r' if !quoted => words.extend(word.take().map(Bytes::from)),
            b'\\' => word.get_or_insert_default().push(escaped(&mut bytes)?),
            byte => word.get_or_insert_default().push(byte),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    words.extend(word.map(Bytes::from));
    Ok(words)
}

/// The byte for which stands what follows a backslash.
fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, String> {
    match bytes.next() {
        Some(b'n') => Ok(b'\n'),
        Some(b'r') => Ok(b'\r'),
        Some(b't') => Ok(b'\t'),
        Some(b'0') => Ok(0),
        Some(byte @ (b'\\' | b'"')) => Ok(byte),
        Some(b'x') => Ok(16 * digit(bytes)? + digit(bytes)?),
        _ => Err("a backslash stands before none of n r t 0 \\ \" x".into()),
    }
}

fn digit(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, String> {
    let digit = bytes.next().and_then(|byte| char::from(byte).to_digit(16));
    let digit = digit.and_then(|digit| u8::try_from(digit).ok());
    digit.ok_or_else(|| "`\\x` needs two hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(key: &'static [u8], value: &'static [u8]) -> WriteOp {
        WriteOp::Update {
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
        }
    }

    #[test]
    fn operations_follow_each_other_without_separators() {
        let words = "put a 1 cas-remove b old cas c old new remove put cas-absent d 2";
        let words = words.split(' ').map(Bytes::from).collect();
        let key = Bytes::from_static;
        let expected = [
            WriteOp::Put {
                key: key(b"a"),
                value: key(b"1"),
            },
            WriteOp::Cas {
                key: key(b"b"),
                expected: Some(key(b"old")),
                new: None,
            },
            WriteOp::Cas {
                key: key(b"c"),
                expected: Some(key(b"old")),
                new: Some(key(b"new")),
            },
            WriteOp::Remove { key: key(b"put") },
            WriteOp::Cas {
                key: key(b"d"),
                expected: None,
                new: Some(key(b"2")),
            },
        ];
        assert_eq!(parse(words), Ok(expected.into()));
    }

    #[test]
    fn a_line_can_say_any_bytes() {
        let text =
            b"update a b\n\n  update \"a b\" \"\"  \r\nupdate \\x00\\xFf \"\\\"\\\\\\n\xff\"\n";
        let expected = vec![
            update(b"a", b"b"),
            update(b"a b", b""),
            update(b"\x00\xff", b"\"\\\n\xff"),
        ];
        assert_eq!(read(&text[..]), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, why) in [
            ("put a 1\nput b", "line 2: `put` needs a value"),
            ("get a", "line 1: `get` is not an operation of a batch"),
            ("remove a remove b", "line 1: more than one operation"),
            ("remove \"a", "line 1: a quote is not closed"),
            ("remove \\xg0", "line 1: `\\x` needs two hexadecimal digits"),
            (
                "remove a\\",
                "line 1: a backslash stands before none of n r t 0 \\ \" x",
            ),
        ] {
            assert_eq!(read(text.as_bytes()), Err(why.to_owned()));
        }
    }
}
