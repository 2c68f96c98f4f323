//! Power of two choices: of two endpoints drawn at random the one with less load.
//!
//! Pure: loads are asked of the caller, randomness is an argument.

/// Picks one of `0..n` for which `eligible` holds; `load` says how busy it is. `None` when none is eligible.
pub(super) fn two_choices(
    n: usize,
    eligible: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let first = draw(n, &eligible, random)?;
    let Some(second) = draw(n, |i| i != first && eligible(i), random) else { return Some(first) };
    Some(if load(second) < load(first) { second } else { first })
}

/// A random eligible index. A few blind draws find one at once where most are eligible; otherwise they are listed, so that
/// the neighbours of ineligible ones get no more than their share.
fn draw(n: usize, eligible: impl Fn(usize) -> bool, random: &mut fastrand::Rng) -> Option<usize> {
    const BLIND_DRAWS: usize = 4;
    if n == 0 {
        return None;
    }
    if let Some(hit) = (0..BLIND_DRAWS).map(|_| random.usize(..n)).find(|i| eligible(*i)) {
        return Some(hit);
    }
    let all: Vec<usize> = (0..n).filter(|i| eligible(*i)).collect();
    random.choice(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(n: usize, eligible: impl Fn(usize) -> bool, load: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut shares = vec![0; n];
        for _ in 0..10_000 {
            if let Some(i) = two_choices(n, &eligible, &load, &mut random) {
                shares[i] += 1;
            }
        }
        shares
    }

    #[test]
    fn equal_loads_get_equal_shares() {
        for share in shares(5, |_| true, |_| 1.0) {
            assert!((1_800..2_200).contains(&share), "share {share} of 10,000 among 5");
        }
    }

    #[test]
    fn the_slowest_of_three_gets_nothing_while_two_others_are_faster() {
        let shares = shares(3, |_| true, |i| if i == 0 { 9.0 } else { 1.0 });
        assert_eq!(shares[0], 0, "{shares:?}");
    }

    #[test]
    fn only_eligible_ones_are_picked_in_equal_shares() {
        let shares = shares(50, |i| i >= 47, |_| 1.0);
        assert!(shares[..47].iter().all(|s| *s == 0));
        assert!(shares[47..].iter().all(|s| (3_000..3_700).contains(s)), "{shares:?}");
    }

    #[test]
    fn none_eligible_is_none() {
        assert_eq!(two_choices(3, |_| false, |_| 1.0, &mut fastrand::Rng::with_seed(1)), None);
        assert_eq!(two_choices(0, |_| true, |_| 1.0, &mut fastrand::Rng::with_seed(1)), None);
    }
}
