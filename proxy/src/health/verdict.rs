//! What a row of results says. Pure.
//!
//! Invariant: the first result decides at once, as nothing is known before; then it takes as many of the other kind in a row as
//! the check says.

/// Of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    known: Option<Result<(), String>>,
    /// Results in a row that speak against what is known.
    against: u32,
}

impl Verdict {
    /// Takes a result, `None` for a success; whether the verdict has changed.
    pub(super) fn on(&mut self, failure: Option<String>, healthy_after: u32, unhealthy_after: u32) -> bool {
        let new = failure.map_or(Ok(()), Err);
        let needed = match &self.known {
            None => 0,
            Some(known) if known.is_ok() == new.is_ok() => {
                self.against = 0;
                return false;
            }
            Some(Ok(())) => unhealthy_after,
            Some(Err(_)) => healthy_after,
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Self { known: Some(new), against: 0 };
        true
    }
}

/// Of all together, and why not; `None` while a first result is missing and none is bad.
pub(super) fn of_all(verdicts: &[Verdict]) -> Option<(bool, String)> {
    let bad = verdicts.iter().find_map(|verdict| verdict.known.as_ref()?.as_ref().err());
    match bad {
        Some(why) => Some((false, why.clone())),
        None => verdicts.iter().all(|verdict| verdict.known.is_some()).then(|| (true, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Option<String> {
        Some("refused".into())
    }

    #[test]
    fn the_first_result_decides_and_then_it_takes_several_in_a_row() {
        let mut verdict = Verdict::default();
        let results = [None, bad(), bad(), None, bad(), bad(), bad(), None, bad(), None, None];
        let changes: Vec<_> = results.into_iter().map(|result| verdict.on(result, 2, 3)).collect();
        assert_eq!(changes, [true, false, false, false, false, false, true, false, false, false, true]);
        assert_eq!(verdict.known, Some(Ok(())));
        let mut down = Verdict::default();
        assert!(down.on(bad(), 2, 3));
    }

    #[test]
    fn all_have_to_be_well_and_one_that_is_not_is_enough() {
        let (mut well, mut ill, unknown) = (Verdict::default(), Verdict::default(), Verdict::default());
        well.on(None, 1, 1);
        ill.on(bad(), 1, 1);
        assert_eq!(of_all(&[well.clone(), unknown.clone()]), None);
        assert_eq!(of_all(&[well.clone(), well.clone()]), Some((true, String::new())));
        assert_eq!(of_all(&[unknown, well, ill]), Some((false, "refused".into())));
    }
}
