//! Which keys are asked for: 16 decimal digits each, drawn from a distribution.

use rand::Rng;
use rand::distr::{Distribution, Uniform};
use rand_distr::Zipf;

/// The bytes of a key.
pub const KEY_BYTES: usize = 16;
/// How many keys there can be: what so many digits tell apart.
pub const KEYS_MAX: u64 = 10_u64.pow(KEY_BYTES as u32);
/// The keys that one run can write of its own. Their first digits name the run, so that
/// a second run on the same cluster finds them new again.
const UNIQUE_PER_RUN: u64 = 10_u64.pow(10);

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spec {
    /// Each of so many with the same probability.
    Uniform { keys: u64 },
    /// Key number n, from 0 on, with a probability in proportion to 1 / (n + 1)^exponent.
    Zipf { keys: u64, exponent: f64 },
    /// Each write has a key of its own; reads and removes ask for those that were written.
    Unique,
}

/// Draws keys, for one thread.
pub struct Keys(Drawer);

enum Drawer {
    Uniform(Uniform<u64>),
    Zipf(Zipf<f64>),
    Unique { first: u64, step: u64, count: u64 },
}

impl Keys {
    /// The keys of thread `thread` of `threads`; `run` tells runs with unique keys apart.
    pub fn new(spec: Spec, run: u64, thread: u32, threads: u32) -> Keys {
        Keys(match spec {
            Spec::Uniform { keys } => {
                Drawer::Uniform(Uniform::new(0, keys).expect("the arguments were checked"))
            }
            Spec::Zipf { keys, exponent } => {
                Drawer::Zipf(Zipf::new(keys as f64, exponent).expect("the arguments were checked"))
            }
            Spec::Unique => {
                let runs = KEYS_MAX / UNIQUE_PER_RUN;
                // Never 0: those are the keys of the other distributions.
                let prefix = 1 + run % (runs - 1);
                Drawer::Unique {
                    first: prefix * UNIQUE_PER_RUN + u64::from(thread),
                    step: u64::from(threads),
                    count: 0,
                }
            }
        })
    }

    /// The number of a key to put or to update.
    pub fn draw_write(&mut self, rng: &mut impl Rng) -> u64 {
        match &mut self.0 {
            Drawer::Unique { first, step, count } => {
                *count += 1;
                *first + *step * (*count - 1)
            }
            _ => self.draw_read(rng),
        }
    }

    /// The number of a key to get or to remove.
    pub fn draw_read(&mut self, rng: &mut impl Rng) -> u64 {
        match &self.0 {
            Drawer::Uniform(uniform) => uniform.sample(rng),
            // Ranks begin with 1.
            Drawer::Zipf(zipf) => zipf.sample(rng) as u64 - 1,
            Drawer::Unique { first, step, count } => {
                let written = Uniform::new(0, (*count).max(1)).expect("it is not empty");
                first + step * written.sample(rng)
            }
        }
    }
}

/// The key with this number, which is below [`KEYS_MAX`].
pub fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut digits = [b'0'; KEY_BYTES];
    for digit in digits.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const DRAWS: usize = 200_000;

    fn counts(spec: Spec, keys: usize) -> Vec<usize> {
        let mut drawer = Keys::new(spec, 0, 0, 1);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; keys];
        for _ in 0..DRAWS {
            counts[drawer.draw_write(&mut rng) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_key_is_its_number_in_sixteen_digits() {
        for number in [0, 7, 10, 99_999, 1_234_567_890_123_456, KEYS_MAX - 1] {
            assert_eq!(key(number), format!("{number:016}").as_bytes());
        }
    }

    #[test]
    fn uniform_keys_are_equally_frequent() {
        let counts = counts(Spec::Uniform { keys: 100 }, 100);
        // 2,000 each are expected, with a standard deviation of 45.
        let even = counts.iter().all(|n| (1_750..2_250).contains(n));
        assert!(even, "{counts:?}");
    }

    #[test]
    fn zipf_keys_have_the_frequencies_of_the_law() {
        for exponent in [0.5, 0.99, 1.0, 1.5] {
            let keys = 1_000;
            let spec = Spec::Zipf {
                keys: keys as u64,
                exponent,
            };
            let counts = counts(spec, keys);
            let weight = |n: usize| ((n + 1) as f64).powf(-exponent);
            let total: f64 = (0..keys).map(weight).sum();
            for n in [0, 1, 2, 9, 99] {
                let expected = DRAWS as f64 * weight(n) / total;
                let deviation = (counts[n] as f64 - expected).abs();
                assert!(
                    deviation < 6.0 * expected.sqrt(),
                    "exponent {exponent}, key {n}: {} instead of {expected:.0}",
                    counts[n]
                );
            }
        }
    }

    #[test]
    fn unique_keys_never_repeat_among_threads_and_runs() {
        let mut seen = HashSet::new();
        let mut rng = SmallRng::seed_from_u64(7);
        for run in [0, 1, 998_244] {
            for thread in 0..3 {
                let mut keys = Keys::new(Spec::Unique, run, thread, 3);
                for _ in 0..1_000 {
                    let number = keys.draw_write(&mut rng);
                    assert!(number < KEYS_MAX);
                    assert!(seen.insert(number), "{number} came twice");
                }
                let asked = keys.draw_read(&mut rng);
                assert!(seen.contains(&asked), "{asked} was never written");
            }
        }
    }
}
