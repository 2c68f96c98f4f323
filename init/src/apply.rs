//! Carries out a plan, or undoes what was done of it.
//!
//! Invariant: after an error each table is as it was before, unless the error itself says otherwise. Going back reads
//! the table afresh, so it also covers a program that failed halfway or was killed after it had done its work.

use crate::plan::Step;
use crate::xtables::Error;

/// A plan that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}; the rules are as they were before")]
    RolledBack(Error),
    #[error("{cause}; and the rules could not be put back: {rollback}; try again, or --cleanup")]
    Mixed { cause: Error, rollback: Error },
}

/// Applies the steps in order.
pub(crate) fn execute(steps: &[Step]) -> Result<(), Failure> {
    for (index, step) in steps.iter().enumerate() {
        let Err(cause) = step.tables.restore(&step.transaction) else {
            continue;
        };
        // Each table is tried, also after one that resists.
        let results: Vec<_> = steps[..=index].iter().rev().map(undo).collect();
        return Err(match results.into_iter().find_map(Result::err) {
            None => Failure::RolledBack(cause),
            Some(rollback) => Failure::Mixed { cause, rollback },
        });
    }
    Ok(())
}

fn undo(step: &Step) -> Result<(), Error> {
    let current = step.tables.read()?.ours;
    current.transaction(&step.before).map_or(Ok(()), |transaction| step.tables.restore(&transaction))
}
