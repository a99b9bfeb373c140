//! What is asked for: the mix of operations and the sizes of values.

use std::fmt;
use std::str::FromStr;

use raftkv::limits::VALUE_BYTES_MAX;
use raftkv::pb::OperationType;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::keys::{self, KEY_BYTES, Keys};

/// Operations and how often each is asked for, in proportion to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    weights: Vec<(OperationType, u32)>,
    total: u32,
}

impl Mix {
    /// One operation and no other.
    pub fn only(kind: OperationType) -> Mix {
        Mix {
            weights: vec![(kind, 1)],
            total: 1,
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> OperationType {
        if let [(kind, _)] = self.weights[..] {
            return kind;
        }
        let mut left = rng.random_range(0..self.total);
        for (kind, weight) in &self.weights {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        unreachable!("the weights make up the total");
    }
}

/// `update=80,get=20`.
impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Mix, String> {
        let mut weights: Vec<(OperationType, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = kind(name).ok_or_else(|| format!("`{name}` is not an operation"))?;
            let weight = weight
                .parse()
                .ok()
                .filter(|weight| (1..=1_000_000).contains(weight))
                .ok_or_else(|| format!("`{weight}` is not a weight from 1 to 1000000"))?;
            if weights.iter().any(|(other, _)| *other == kind) {
                return Err(format!("`{name}` is there twice"));
            }
            weights.push((kind, weight));
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        Ok(Mix { weights, total })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(kind, _)] = self.weights[..] {
            return f.write_str(name(kind));
        }
        for (n, (kind, weight)) in self.weights.iter().enumerate() {
            let separator = if n == 0 { "" } else { "," };
            write!(f, "{separator}{}={weight}", name(*kind))?;
        }
        Ok(())
    }
}

fn kind(name: &str) -> Option<OperationType> {
    match name {
        "put" => Some(OperationType::Put),
        "update" => Some(OperationType::Update),
        "get" => Some(OperationType::Get),
        "remove" | "delete" => Some(OperationType::Delete),
        _ => None,
    }
}

fn name(kind: OperationType) -> &'static str {
    match kind {
        OperationType::Put => "put",
        OperationType::Update => "update",
        OperationType::Get => "get",
        OperationType::Delete => "remove",
        OperationType::OpenSession => "open session",
        OperationType::CompareAndSet => "compare and set",
        OperationType::Batch => "batch",
        OperationType::Scan => "scan",
    }
}

/// How long values are, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueBytes {
    /// All the same.
    Fixed(usize),
    /// From one to the other, both included, each equally often.
    Range(usize, usize),
    /// One of these, each equally often.
    List(Vec<usize>),
}

impl ValueBytes {
    fn draw(&self, rng: &mut impl Rng) -> usize {
        match self {
            ValueBytes::Fixed(bytes) => *bytes,
            ValueBytes::Range(least, most) => rng.random_range(*least..=*most),
            ValueBytes::List(list) => list[rng.random_range(0..list.len())],
        }
    }

    fn max(&self) -> usize {
        match self {
            ValueBytes::Fixed(bytes) | ValueBytes::Range(_, bytes) => *bytes,
            ValueBytes::List(list) => list.iter().copied().max().unwrap_or(0),
        }
    }
}

/// `100`, `64-1024` or `64,256,1024`.
impl FromStr for ValueBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<ValueBytes, String> {
        let bytes = |text: &str| {
            let bytes = text.parse::<usize>().ok();
            bytes
                .filter(|bytes| *bytes <= VALUE_BYTES_MAX)
                .ok_or_else(|| format!("`{text}` is not a size from 0 to {VALUE_BYTES_MAX} bytes"))
        };
        if let Some((least, most)) = text.split_once('-') {
            let (least, most) = (bytes(least)?, bytes(most)?);
            if least > most {
                return Err(format!("the range {text} is empty"));
            }
            return Ok(ValueBytes::Range(least, most));
        }
        let list: Vec<usize> = text.split(',').map(bytes).collect::<Result<_, _>>()?;
        Ok(match list[..] {
            [bytes] => ValueBytes::Fixed(bytes),
            _ => ValueBytes::List(list),
        })
    }
}

impl fmt::Display for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueBytes::Fixed(bytes) => write!(f, "{bytes}"),
            ValueBytes::Range(least, most) => write!(f, "{least}-{most}"),
            ValueBytes::List(list) => {
                let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// One operation to ask for.
pub struct Drawn<'a> {
    pub kind: OperationType,
    pub key: [u8; KEY_BYTES],
    /// Empty but for a put or an update.
    pub value: &'a [u8],
}

/// Draws operations, for one thread.
pub struct Workload {
    mix: Mix,
    keys: Keys,
    value_bytes: ValueBytes,
    /// Random bytes, of which each value is a part.
    noise: Vec<u8>,
    rng: SmallRng,
}

/// Values begin at so many places of the noise, so that they are not all the same.
const OFFSETS: usize = 1 << 10;

impl Workload {
    pub fn new(mix: Mix, keys: Keys, value_bytes: ValueBytes, seed: u64) -> Workload {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut noise = vec![0; value_bytes.max() + OFFSETS];
        rng.fill(&mut noise[..]);
        Workload {
            mix,
            keys,
            value_bytes,
            noise,
            rng,
        }
    }

    pub fn draw(&mut self) -> Drawn<'_> {
        let kind = self.mix.draw(&mut self.rng);
        let (number, value) = match kind {
            OperationType::Put | OperationType::Update => {
                let bytes = self.value_bytes.draw(&mut self.rng);
                let offset = self.rng.random_range(0..OFFSETS);
                let value = &self.noise[offset..offset + bytes];
                (self.keys.draw_write(&mut self.rng), value)
            }
            _ => (self.keys.draw_read(&mut self.rng), &[][..]),
        };
        Drawn {
            kind,
            key: keys::key(number),
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Spec;

    #[test]
    fn a_mix_is_written_as_it_is_read_and_drawn_in_proportion() {
        let mix: Mix = "update=75,get=20,remove=5".parse().unwrap();
        assert_eq!(mix.to_string(), "update=75,get=20,remove=5");
        let mut rng = SmallRng::seed_from_u64(1);
        let drawn: Vec<OperationType> = (0..100_000).map(|_| mix.draw(&mut rng)).collect();
        for (kind, expected) in [
            (OperationType::Update, 75_000_i64),
            (OperationType::Get, 20_000),
            (OperationType::Delete, 5_000),
            (OperationType::Put, 0),
        ] {
            let count = drawn.iter().filter(|k| **k == kind).count() as i64;
            assert!((count - expected).abs() < 800, "{kind:?}: {count}");
        }
    }

    #[test]
    fn a_mix_that_makes_no_sense_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "`` is not an operation"),
            ("scan=5", "`scan` is not an operation"),
            ("get=0", "`0` is not a weight"),
            ("get=x", "`x` is not a weight"),
            ("remove=1,delete=1", "`delete` is there twice"),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }

    #[test]
    fn value_sizes_are_one_a_range_or_a_list() {
        let parse = |text: &str| text.parse::<ValueBytes>();
        assert_eq!(parse("0"), Ok(ValueBytes::Fixed(0)));
        assert_eq!(parse("64-1024"), Ok(ValueBytes::Range(64, 1024)));
        assert_eq!(parse("1,10"), Ok(ValueBytes::List(vec![1, 10])));
        for text in ["", "x", "-5", "9-8", "1,,2", "8388609", "1-2-3"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["7", "64-1024", "1,10"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn values_have_all_the_sizes_asked_for_and_no_other() {
        let keys = Keys::new(Spec::Uniform { keys: 10 }, 0, 0, 1);
        let value_bytes = "3-5".parse().unwrap();
        let mut workload = Workload::new(Mix::only(OperationType::Update), keys, value_bytes, 1);
        let mut sizes: Vec<usize> = (0..1_000).map(|_| workload.draw().value.len()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [3, 4, 5]);
    }

    #[test]
    fn only_writes_of_a_value_carry_one() {
        let keys = Keys::new(Spec::Uniform { keys: 10 }, 0, 0, 1);
        let mix = "get=1,remove=1".parse().unwrap();
        let mut workload = Workload::new(mix, keys, ValueBytes::Fixed(9), 1);
        assert!((0..100).all(|_| workload.draw().value.is_empty()));
    }
}
