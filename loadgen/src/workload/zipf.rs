//! Draws ranks by Zipf's law: rank k comes with a probability proportional to 1/k^theta.
//!
//! Rejection-inversion (W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
//! monotone discrete distributions", ACM TOMACS 6(3), 1996): constant time for a draw, no table, any size and
//! any exponent above 0. The names `h` and its integral are the paper's.

use super::random::Random;

/// The distribution over the ranks `0..size`.
#[derive(Clone, Debug)]
pub struct Zipf {
    size: u64,
    theta: f64,
    integral_first: f64,
    integral_last: f64,
    squeeze: f64,
}

impl Zipf {
    /// `size` is at least 1, `theta` above 0.
    pub fn new(size: u64, theta: f64) -> Self {
        let mut zipf = Self { size, theta, integral_first: 0.0, integral_last: 0.0, squeeze: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(size as f64 + 0.5);
        zipf.squeeze = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.h(2.0));
        zipf
    }

    /// A rank below the size; 0 is the most frequent.
    pub fn draw(&self, rng: &mut Random) -> u64 {
        loop {
            let u = self.integral_last + rng.unit() * (self.integral_first - self.integral_last);
            let x = self.integral_inverse(u);
            let rank = ((x + 0.5) as u64).clamp(1, self.size);
            let k = rank as f64;
            if k - x <= self.squeeze || u >= self.integral(k + 0.5) - self.h(k) {
                return rank - 1;
            }
        }
    }

    fn h(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// The integral of `h`, also where theta is 1 and it is a logarithm.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        exp_m1_over((1.0 - self.theta) * log) * log
    }

    fn integral_inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.theta)).max(-1.0);
        (ln_1p_over(t) * x).exp()
    }
}

/// `(e^x - 1) / x`, exact near 0.
fn exp_m1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x * 0.5 * (1.0 + x / 3.0 * (1.0 + 0.25 * x)) }
}

/// `ln(1 + x) / x`, exact near 0.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x * (0.5 - x * (1.0 / 3.0 - 0.25 * x)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pearson's statistic over the frequent ranks, with the rare ones pooled.
    fn chi_squared(size: u64, theta: f64, seed: u64, draws: u64) -> (f64, usize) {
        let zipf = Zipf::new(size, theta);
        let mut rng = Random::new(seed, 0);
        let mut counts = vec![0u64; size as usize];
        for _ in 0..draws {
            counts[zipf.draw(&mut rng) as usize] += 1;
        }
        let weights: Vec<f64> = (1..=size).map(|k| (k as f64).powf(-theta)).collect();
        let sum: f64 = weights.iter().sum();
        let (mut statistic, mut cells, mut pooled) = (0.0, 0, (0.0, 0u64));
        let mut cell = |expected: f64, seen: u64| {
            statistic += (seen as f64 - expected).powi(2) / expected;
            cells += 1;
        };
        for (weight, count) in weights.iter().zip(counts) {
            pooled = (pooled.0 + weight / sum * draws as f64, pooled.1 + count);
            if pooled.0 >= 20.0 {
                cell(pooled.0, pooled.1);
                pooled = (0.0, 0);
            }
        }
        if pooled.0 >= 5.0 {
            cell(pooled.0, pooled.1);
        }
        (statistic, cells)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn ranks_come_as_often_as_the_law_says(size in 2u64..2_000, theta in 0.2f64..2.5, seed in any::<u64>()) {
            let (statistic, cells) = chi_squared(size, theta, seed, 50_000);
            // The statistic's mean is the degrees of freedom and its deviation the root of twice that; six
            // deviations and some are never reached by chance.
            let freedom = cells.saturating_sub(1).max(1) as f64;
            prop_assert!(statistic < freedom + 6.0 * (2.0 * freedom).sqrt() + 15.0, "{statistic} in {cells}");
        }

        #[test]
        fn ranks_are_in_range(size in 1u64..u64::MAX >> 2, theta in 0.01f64..8.0, seed in any::<u64>()) {
            let zipf = Zipf::new(size, theta);
            let mut rng = Random::new(seed, 0);
            for _ in 0..50 {
                prop_assert!(zipf.draw(&mut rng) < size);
            }
        }
    }

    #[test]
    fn an_exponent_of_one_is_no_exception() {
        let (statistic, cells) = chi_squared(1_000, 1.0, 3, 200_000);
        assert!(statistic < cells as f64 + 6.0 * (2.0 * cells as f64).sqrt(), "{statistic} in {cells}");
    }

    #[test]
    fn another_law_would_be_noticed() {
        // The test above has to be able to fail: ranks by theta 1.1 are not those of 1.0.
        let zipf = Zipf::new(1_000, 1.1);
        let mut rng = Random::new(3, 0);
        let firsts = (0..200_000).filter(|_| zipf.draw(&mut rng) == 0).count() as f64;
        let sum: f64 = (1..=1_000u32).map(|k| 1.0 / f64::from(k)).sum();
        assert!(firsts > 200_000.0 / sum * 1.1, "{firsts}");
    }
}
