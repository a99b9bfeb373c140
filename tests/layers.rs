//! Holds the layer table of `src/lib.rs` against the code: who imports whom, what the core may not
//! touch, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 620;

/// What the I/O-free core may not even name.
const FORBIDDEN_IN_RAFT: [&str; 9] = [
    "std::net",
    "std::fs",
    "std::thread",
    "std::io",
    "Instant",
    "SystemTime",
    "rand::rng",
    "thread_rng",
    "HashMap",
];

/// Imports that are forbidden though the layers would allow them.
const NEVER: [(&str, &str); 4] = [
    ("kv", "raft"),
    ("net", "raft"),
    ("server", "sim"),
    ("sim", "server"),
];

/// A source file without comments, string contents and tests, line by line.
struct Source {
    path: PathBuf,
    /// The module of `src/lib.rs` that it belongs to.
    module: String,
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files
        .into_iter()
        .filter(|path| !is_test_file(path) && *path != root.join("lib.rs"))
        .map(|path| {
            let inside = path.strip_prefix(&root).expect("below src");
            let first = inside.iter().next().expect("a file").to_string_lossy();
            let text = fs::read_to_string(&path).expect("a source file");
            Source {
                module: first.trim_end_matches(".rs").to_owned(),
                lines: without_tests(&blanked(&text)),
                path,
            }
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// `tests.rs`, `…_tests.rs` and everything in a folder `tests`: declared under `#[cfg(test)]`.
fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    name.is_some_and(|n| n == "tests" || n.ends_with("_tests"))
        || path.iter().any(|part| part == "tests")
}

/// The text with comments, strings and character literals replaced by spaces, line ends kept.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            out.push(char::from(bytes[at]));
            at += 1;
        } else {
            for byte in &bytes[at..end] {
                out.push(if *byte == b'\n' { '\n' } else { ' ' });
            }
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` if none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        let found = rest[from..].windows(needle.len()).position(|w| w == needle);
        found.map_or(bytes.len(), |p| at + from + p + needle.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => find(b"\n", 2).saturating_sub(1).max(at + 2),
        [b'/', b'*', ..] => find(b"*/", 2),
        [b'"', ..] => quoted_end(bytes, at),
        [b'r', b'"' | b'#', ..] | [b'b', b'r', b'"' | b'#', ..] if !in_word => {
            let start = if rest[0] == b'b' { 2 } else { 1 };
            let hashes = rest[start..].iter().take_while(|b| **b == b'#').count();
            if rest.get(start + hashes) != Some(&b'"') {
                return at; // A raw identifier.
            }
            let mut close = vec![b'"'];
            close.resize(1 + hashes, b'#');
            find(&close, start + hashes + 1)
        }
        // A character, not a lifetime.
        [b'\'', b'\\', ..] => find(b"'", 3),
        [b'\'', _, b'\'', ..] => at + 3,
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// The numbered lines outside of items under `#[cfg(test)]` (and of what else is for tests only).
fn without_tests(text: &str) -> Vec<(usize, String)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let attribute = line.trim_start();
        if !(attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(all(test")) {
            kept.push((number + 1, line.to_owned()));
            continue;
        }
        // The item ends with its closing brace, or with a semicolon before any brace.
        let mut depth = 0_i64;
        let mut opened = false;
        let mut item = attribute
            .split_once(']')
            .map_or("", |(_, rest)| rest)
            .to_owned();
        loop {
            let is_attribute = item.trim_start().starts_with('#') && !opened;
            if !is_attribute {
                depth += item.matches('{').count() as i64 - item.matches('}').count() as i64;
                opened |= item.contains('{');
                if (opened && depth <= 0) || (!opened && item.trim_end().ends_with([';', ','])) {
                    break;
                }
            }
            match lines.next() {
                Some((_, next)) => item = next.to_owned(),
                None => break,
            }
        }
    }
    kept
}

/// The table in the docs of `src/lib.rs`: the layer of each module.
fn layers() -> BTreeMap<String, u32> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(lib).expect("src/lib.rs");
    let mut layers = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("//! | L")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let layer = cells.next().and_then(|c| c.strip_prefix('L')?.parse().ok());
        let modules = cells.next().expect("the modules");
        for module in modules.split(',') {
            let name = module.trim().trim_matches(['[', ']', '`']).to_owned();
            layers.insert(name, layer.expect("a number"));
        }
    }
    layers
}

/// The modules that a file names as `crate::module`, also in a list `use crate::{a, b::c}`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let text: String = source.lines.iter().map(|(_, l)| format!("{l}\n")).collect();
    let number_at = |at: usize| source.lines[text[..at].matches('\n').count()].0;
    for (at, _) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        for name in first_segments(rest) {
            found.push((number_at(at), name));
        }
    }
    found
}

/// `a::b` names `a`; `{a, b::{c, d}}` names `a` and `b`.
fn first_segments(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        let text = text.trim_start();
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let mut names = vec![word(list)];
    let mut depth = 0;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&list[at + 1..])),
            _ => {}
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

/// What is named in `src/lib.rs` itself, outside of modules: nothing may hide there.
fn declared_modules() -> BTreeSet<String> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = blanked(&fs::read_to_string(lib).expect("src/lib.rs"));
    let words = text.lines().filter_map(|l| {
        let l = l
            .trim()
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub ");
        l.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    });
    words.collect()
}

#[test]
fn every_module_has_its_place_in_the_table() {
    let layers = layers();
    assert!(layers.len() > 10, "the table was not found: {layers:?}");
    for module in declared_modules() {
        assert!(layers.contains_key(&module), "{module} is in no layer");
    }
    for source in sources() {
        assert!(
            layers.contains_key(&source.module),
            "{} is in no layer",
            source.path.display()
        );
    }
}

#[test]
fn modules_import_only_from_lower_layers() {
    let layers = layers();
    let mut wrong = Vec::new();
    for source in sources() {
        for (line, name) in imports(&source) {
            let Some(imported) = layers.get(&name) else {
                continue; // A macro or another item of the crate's root.
            };
            let forbidden = NEVER.contains(&(source.module.as_str(), name.as_str()));
            // The lowest layer is one ground: the words of the protocol know their bounds.
            let own = layers[&source.module];
            let upward = *imported > own || (*imported == own && own > 0);
            if name != source.module && (forbidden || upward) {
                wrong.push(format!("{}:{line}: imports {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_knows_only_the_lowest_layer_and_no_outside_world() {
    let layers = layers();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.module == "raft") {
        for (line, name) in imports(source) {
            if name != "raft" && layers.get(&name).is_some_and(|l| *l > 0) {
                wrong.push(format!("{}:{line}: imports {name}", source.path.display()));
            }
        }
        for (line, text) in &source.lines {
            let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            for forbidden in FORBIDDEN_IN_RAFT {
                let named = words.clone().any(|w| {
                    w == forbidden
                        || w.starts_with(&format!("{forbidden}::"))
                        || w.ends_with(&format!("::{forbidden}"))
                });
                if named {
                    wrong.push(format!("{}:{line}: {forbidden}", source.path.display()));
                }
            }
            // `use std::{fs, net}` hides the path.
            if words.any(|w| w == "std::") {
                wrong.push(format!("{}:{line}: a list of std", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_without_their_tests() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|s| s.lines.len() > FILE_LINES_MAX)
        .map(|s| format!("{}: {} lines", s.path.display(), s.lines.len()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_reader_of_sources_sees_through_comments_strings_and_tests() {
    let text = "use crate::{types::{Index, Term}, time};\n\
                // crate::sim\n\
                /* crate::sim */ let a = \"crate::sim\"; let b = '\"'; let c = r#\"crate::\"sim\"#;\n\
                fn f<'a>(x: &'a str) { crate::limits::f(x) }\n\
                #[cfg(test)]\n\
                mod tests {\n    use crate::server;\n    fn g() { }\n}\n\
                #[cfg(test)]\n\
                use crate::client;\n\
                fn h() { crate::wal::open() }\n";
    let source = Source {
        path: PathBuf::new(),
        module: "x".to_owned(),
        lines: without_tests(&blanked(text)),
    };
    let seen: Vec<(usize, String)> = imports(&source);
    let expected = [(1, "types"), (1, "time"), (4, "limits"), (12, "wal")];
    let expected: Vec<(usize, String)> = expected
        .iter()
        .map(|(l, n)| (*l, (*n).to_owned()))
        .collect();
    assert_eq!(seen, expected);
}
