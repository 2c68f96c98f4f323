//! Which endpoints are of the proxy's own zone, and how much goes elsewhere when that one is slow.
//!
//! Invariant: nothing goes to another zone while the own one answers within twice the other's time. Beyond that the share grows
//! with the ratio, so that load settles where both are about as fast; it does not swing. Pure.

use crate::model::Endpoint;

/// The endpoints of a list, by their index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Zones {
    pub(super) near: Box<[u32]>,
    pub(super) far: Box<[u32]>,
}

/// Slower than this by itself does not count as slow: a hop to another zone takes its time too.
pub(super) const QUICK: f64 = 0.005;

/// Times as slow as the others before anything goes there.
const PATIENCE: f64 = 2.0;

impl Zones {
    /// `None`: zones make no difference.
    pub(super) fn of(own: &str, endpoints: &[Endpoint]) -> Option<Self> {
        if own.is_empty() {
            return None;
        }
        // As in EndpointSlices: hints count when all have them, and somebody is meant for us.
        let is_hinted = |endpoint: &Endpoint| endpoint.traits.hints.iter().any(|zone| **zone == *own);
        let by_hints = endpoints.iter().all(|it| !it.traits.hints.is_empty()) && endpoints.iter().any(is_hinted);
        let is_near = |endpoint: &Endpoint| if by_hints { is_hinted(endpoint) } else { *endpoint.traits.zone == *own };
        let (near, far): (Vec<u32>, Vec<u32>) =
            (0..).zip(endpoints).map(|(i, endpoint)| (i, is_near(endpoint))).fold(Default::default(), sorted);
        if near.is_empty() || far.is_empty() {
            return None;
        }
        Some(Self { near: near.into(), far: far.into() })
    }
}

fn sorted((mut near, mut far): (Vec<u32>, Vec<u32>), (i, is_near): (u32, bool)) -> (Vec<u32>, Vec<u32>) {
    if is_near {
        near.push(i)
    } else {
        far.push(i)
    }
    (near, far)
}

/// The share of requests that leave a zone that answers within `near` seconds for one that does within `far`.
pub(super) fn spill(near: f64, far: f64) -> f64 {
    (1.0 - PATIENCE * far.max(QUICK) / near.max(f64::MIN_POSITIVE)).max(0.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Name, Traits};

    fn endpoint(last: u8, zone: &str, hints: &[&str]) -> Endpoint {
        let hints = hints.iter().map(|zone| Box::from(*zone)).collect();
        let traits = Traits { zone: zone.into(), hints, ..Traits::default() };
        Endpoint { addr: ([10, 0, 0, last], 80).into(), name: Name::default(), traits: Arc::new(traits) }
    }

    #[test]
    fn the_own_zone_is_near_and_hints_say_more_than_zones() {
        let plain = [endpoint(1, "a", &[]), endpoint(2, "b", &[]), endpoint(3, "", &[])];
        let zones = Zones::of("a", &plain).unwrap();
        assert_eq!((&*zones.near, &*zones.far), (&[0][..], &[1, 2][..]));
        let hinted = [endpoint(1, "a", &["b"]), endpoint(2, "b", &["a", "c"])];
        assert_eq!(&*Zones::of("a", &hinted).unwrap().near, &[1]);
        let half = [endpoint(1, "a", &["b"]), endpoint(2, "b", &[])];
        assert_eq!(&*Zones::of("a", &half).unwrap().near, &[0], "hints count when all have them");
    }

    #[test]
    fn zones_make_no_difference_where_there_is_one_or_none_or_ours_is_unknown() {
        assert_eq!(Zones::of("", &[endpoint(1, "a", &[]), endpoint(2, "b", &[])]), None);
        assert_eq!(Zones::of("a", &[endpoint(1, "a", &[]), endpoint(2, "a", &[])]), None);
        assert_eq!(Zones::of("c", &[endpoint(1, "a", &[]), endpoint(2, "b", &[])]), None);
    }

    #[test]
    fn nothing_leaves_a_quick_zone_and_most_leaves_one_that_stands_still() {
        assert!(spill(0.02, 0.01) <= 0.0);
        assert!(spill(0.009, 0.000_1) <= 0.0, "quick enough whatever the others are");
        assert!((spill(0.04, 0.01) - 0.5).abs() < 1e-9);
        assert!(spill(10.0, 0.01) > 0.99);
    }
}
