//! What all programs are made of.

/// The program of the target `$name` of `mesh_tests::fuzz`.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_tests::fuzz::run($name, data));
    };
}
