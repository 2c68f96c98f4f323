//! Round robin: places take turns, by weight.
//!
//! Invariant: in each round a place takes part in as many of the heaviest one's turns as its weight is a share of it, spread
//! evenly; so of equal weights each one comes once before any comes twice.

/// Whose turn it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    at: u32,
    round: u32,
}

/// Rounds without anybody before the next eligible one is taken whatever its weight.
const ROUNDS: usize = 3;

impl Turns {
    /// The next of `0..n` that is `eligible`; `None` when none is. `heaviest` is the largest weight.
    pub fn next(
        &mut self,
        n: usize,
        eligible: impl Fn(usize) -> bool,
        weight: impl Fn(usize) -> u16,
        heaviest: u16,
    ) -> Option<usize> {
        let mut lighter = None;
        for _ in 0..n * ROUNDS {
            let (at, round) = (self.at as usize % n, self.round);
            self.step(n);
            if !eligible(at) {
                continue;
            }
            if takes_part(round, weight(at), heaviest) {
                return Some(at);
            }
            lighter = lighter.or(Some(at));
        }
        if let Some(at) = lighter {
            self.go_to(at + 1);
        }
        lighter
    }

    fn step(&mut self, n: usize) {
        let next = self.at as usize + 1;
        if next < n {
            self.go_to(next);
        } else {
            (self.at, self.round) = (0, self.round.wrapping_add(1));
        }
    }

    fn go_to(&mut self, at: usize) {
        // There are no more places than an update has room for.
        self.at = u32::try_from(at).unwrap_or(0);
    }
}

fn takes_part(round: u32, weight: u16, heaviest: u16) -> bool {
    let (weight, heaviest) = (u64::from(weight), u64::from(heaviest.max(1)));
    let round = u64::from(round) % heaviest;
    (round + 1) * weight / heaviest > round * weight / heaviest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u16], eligible: impl Fn(usize) -> bool, picks: usize) -> Vec<usize> {
        let (mut turns, mut shares) = (Turns::default(), vec![0; weights.len()]);
        let heaviest = weights.iter().copied().max().unwrap();
        for _ in 0..picks {
            shares[turns.next(weights.len(), &eligible, |i| weights[i], heaviest).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn equal_ones_take_turns() {
        let mut turns = Turns::default();
        let order: Vec<_> = (0..6).filter_map(|_| turns.next(3, |_| true, |_| 1, 1)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        assert_eq!(shares(&[1, 2, 5], |_| true, 80), [10, 20, 50]);
        assert_eq!(shares(&[7, 7], |_| true, 100), [50, 50]);
    }

    #[test]
    fn who_is_not_eligible_is_passed_by_and_nobody_waits_for_the_heaviest() {
        assert_eq!(shares(&[1, 1, 1], |i| i != 1, 100), [50, 0, 50]);
        let light = shares(&[1, 10_000, 1], |i| i != 1, 100);
        assert_eq!((light[1], light[0] + light[2]), (0, 100));
        assert!(light[0].abs_diff(light[2]) <= 10, "{light:?}");
    }

    #[test]
    fn none_eligible_is_none() {
        assert_eq!(Turns::default().next(3, |_| false, |_| 1, 1), None);
        assert_eq!(Turns::default().next(0, |_| true, |_| 1, 1), None);
    }
}
