//! `bench-backend`.

fn main() {}
