//! From values to places on an axis, and the values that are worth a mark there.

use crate::report::grouped;

/// Marks that an axis should have, about.
const TICKS: f64 = 5.0;

/// What an axis stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal steps.
    Linear { least: f64, most: f64, step: f64 },
    /// Equal factors; the bounds are powers of ten.
    Log { least: f64, most: f64 },
}

impl Scale {
    /// A linear scale that holds these two.
    pub fn linear(least: f64, most: f64) -> Scale {
        let most = if most > least { most } else { least + 1.0 };
        Scale::Linear {
            least,
            most,
            step: round_step((most - least) / TICKS),
        }
    }

    /// A linear scale from 0 to beyond the largest of these, up to a mark.
    pub fn counts(values: impl Iterator<Item = f64>) -> Scale {
        let largest = values.fold(1.0, f64::max);
        let step = round_step(largest / TICKS);
        Scale::Linear {
            least: 0.0,
            most: (largest / step).ceil() * step,
            step,
        }
    }

    /// A logarithmic scale around these, which are positive.
    pub fn log(values: impl Iterator<Item = f64>) -> Scale {
        let (least, most) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        let (least, most) = if most > 0.0 {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        let below = least.log10().floor();
        let above = most.log10().ceil().max(below + 1.0);
        Scale::Log {
            least: 10_f64.powf(below),
            most: 10_f64.powf(above),
        }
    }

    /// Where a value lies: 0 at the least, 1 at the most. What is outside lies at the edge.
    pub fn place(&self, value: f64) -> f64 {
        let place = match self {
            Scale::Linear { least, most, .. } => (value - least) / (most - least),
            Scale::Log { least, most } => {
                (value.max(*least) / least).log10() / (most / least).log10()
            }
        };
        place.clamp(0.0, 1.0)
    }

    /// The values to mark.
    pub fn ticks(&self) -> Vec<f64> {
        match self {
            Scale::Linear { least, most, step } => {
                let count = ((most - least) / step + 1e-9).floor() as usize;
                (0..=count).map(|n| least + n as f64 * step).collect()
            }
            Scale::Log { least, most } => {
                let decades = (most / least).log10().round() as i32;
                (0..=decades).map(|n| least * 10_f64.powi(n)).collect()
            }
        }
    }

    /// Values for fine lines between those that are marked.
    pub fn minor_ticks(&self) -> Vec<f64> {
        match self {
            Scale::Linear { .. } => Vec::new(),
            Scale::Log { .. } => {
                let mut ticks = self.ticks();
                ticks.pop();
                let between = |tick: f64| [2.0, 5.0].map(|factor| factor * tick);
                ticks.into_iter().flat_map(between).collect()
            }
        }
    }
}

/// The next of 1, 2, 5, 10, 20, …
fn round_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
    steps
        .into_iter()
        .find(|round| *round >= step * (1.0 - 1e-9))
        .unwrap_or(10.0 * decade)
}

/// A number with as many digits as it needs.
pub fn plain(value: f64) -> String {
    if value.fract().abs() < 1e-9 {
        return grouped(value);
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Microseconds in the unit that suits them.
pub fn duration(micros: f64) -> String {
    let (number, unit) = match micros {
        m if m < 1e3 => (m, "µs"),
        m if m < 1e6 => (m / 1e3, "ms"),
        m => (m / 1e6, "s"),
    };
    format!("{} {unit}", plain(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scales_are_marked_in_round_steps() {
        let ticks = |most| Scale::linear(0.0, most).ticks();
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(3.0), [0.0, 1.0, 2.0, 3.0]);
        let counts = Scale::counts([17_300.0, 33_120.0].into_iter());
        assert_eq!(
            counts.ticks(),
            [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]
        );
        assert_eq!(counts.place(20_000.0), 0.5);
    }

    #[test]
    fn log_scales_go_from_power_to_power_of_ten() {
        let scale = Scale::log([350.0, 4_200.0].into_iter());
        assert_eq!(scale.ticks(), [100.0, 1_000.0, 10_000.0]);
        assert_eq!(scale.place(1_000.0), 0.5);
        assert_eq!(scale.place(1.0), 0.0);
        assert_eq!(scale.minor_ticks(), [200.0, 500.0, 2_000.0, 5_000.0]);
    }

    #[test]
    fn a_scale_of_nothing_or_of_one_value_is_still_one() {
        for scale in [
            Scale::linear(0.0, 0.0),
            Scale::counts(std::iter::empty()),
            Scale::log(std::iter::empty()),
            Scale::log([100.0].into_iter()),
        ] {
            assert!(scale.ticks().len() >= 2, "{scale:?}");
            assert!(scale.place(50.0).is_finite(), "{scale:?}");
        }
    }

    #[test]
    fn labels_have_the_unit_that_suits_them() {
        assert_eq!(duration(100.0), "100 µs");
        assert_eq!(duration(2_500.0), "2.5 ms");
        assert_eq!(duration(1e7), "10 s");
        assert_eq!(plain(20_000.0), "20,000");
        assert_eq!(plain(0.2), "0.2");
    }
}
