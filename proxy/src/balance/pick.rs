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

/// The same where some take more than others: both are drawn by `weight`, of which `heaviest` is the largest, and may be the
/// same one. `load` is of one weight's worth.
pub(super) fn two_choices_by_weight(
    n: usize,
    eligible: impl Fn(usize) -> bool,
    (weight, heaviest): (impl Fn(usize) -> u16, u16),
    load: impl Fn(usize) -> f64,
    random: &mut fastrand::Rng,
) -> Option<usize> {
    let first = draw_by_weight(n, &eligible, (&weight, heaviest), random)?;
    let second = draw_by_weight(n, &eligible, (&weight, heaviest), random)?;
    Some(if second != first && load(second) < load(first) { second } else { first })
}

/// A random eligible index, as in [`draw`], by weight.
fn draw_by_weight(
    n: usize,
    eligible: impl Fn(usize) -> bool,
    (weight, heaviest): (impl Fn(usize) -> u16, u16),
    random: &mut fastrand::Rng,
) -> Option<usize> {
    const BLIND_DRAWS: usize = 8;
    if n == 0 {
        return None;
    }
    for _ in 0..BLIND_DRAWS {
        let i = random.usize(..n);
        if eligible(i) && random.u16(..heaviest.max(1)) < weight(i) {
            return Some(i);
        }
    }
    let all = || (0..n).filter(|i| eligible(*i));
    let sum: u64 = all().map(|i| u64::from(weight(i))).sum();
    let mut left = random.u64(..sum.max(1));
    all().find(|i| {
        let weight = u64::from(weight(*i));
        let is_hit = left < weight;
        left = left.saturating_sub(weight);
        is_hit
    })
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
    fn who_weighs_more_gets_more_and_load_counts_by_weight() {
        let by_weight = |weights: &[u16], eligible: &dyn Fn(usize) -> bool, load: &dyn Fn(usize) -> f64| {
            let (mut random, mut shares) = (fastrand::Rng::with_seed(7), vec![0; weights.len()]);
            let heaviest = *weights.iter().max().unwrap();
            for _ in 0..10_000 {
                let weigh = (|i: usize| weights[i], heaviest);
                shares[two_choices_by_weight(weights.len(), eligible, weigh, load, &mut random).unwrap()] += 1;
            }
            shares
        };
        let even = by_weight(&[3, 1], &|_| true, &|_| 1.0);
        assert!((7_300..7_700).contains(&even[0]), "{even:?}");
        // The lighter one is faster, and is asked whenever it is drawn at all.
        let slow = by_weight(&[3, 1], &|_| true, &|i| if i == 0 { 9.0 } else { 1.0 });
        assert!((4_100..4_650).contains(&slow[1]), "7 of 16: {slow:?}");
        let mut weights = vec![1000; 50];
        weights[48..].copy_from_slice(&[1, 3]);
        let few = by_weight(&weights, &|i| i >= 48, &|_| 1.0);
        assert!(few[..48].iter().all(|share| *share == 0));
        assert!((2_300..2_700).contains(&few[48]), "{few:?}");
    }

    #[test]
    fn none_eligible_is_none() {
        assert_eq!(two_choices(3, |_| false, |_| 1.0, &mut fastrand::Rng::with_seed(1)), None);
        assert_eq!(two_choices(0, |_| true, |_| 1.0, &mut fastrand::Rng::with_seed(1)), None);
    }
}
