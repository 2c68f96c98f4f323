//! The clocks of the process, as its runtime sees them: a simulation that lets time fly moves both.
//!
//! Invariant: in a process that nobody simulates these are the system's clocks; asking costs one look more.

use std::time::{Instant, SystemTime};

/// The steady clock.
pub fn steady() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time of day.
pub fn wall() -> SystemTime {
    let (runtime, system) = (steady(), Instant::now());
    let now = SystemTime::now();
    match runtime.checked_duration_since(system) {
        Some(ahead) => now + ahead,
        None => now - system.duration_since(runtime),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn both_clocks_follow_a_runtime_whose_time_flies() {
        let (steady_before, wall_before) = (steady(), wall());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(steady() - steady_before, Duration::from_secs(3600));
        let passed = wall().duration_since(wall_before).expect("time passes");
        assert!(passed.abs_diff(Duration::from_secs(3600)) < Duration::from_secs(1), "{passed:?}");
    }
}
