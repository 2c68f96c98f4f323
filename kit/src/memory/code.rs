//! Where this process has mapped what is only read of its program and libraries: code, and constants.
//!
//! Invariant: nothing that could have been written since it was mapped, so that the file has the same bytes.
//! Non-goal: other files, which nobody maps here.

use std::ops::Range;

/// The mappings of `maps`, which is /proc/self/maps, that can be had again from their files at any time.
pub(super) fn mappings(maps: &str) -> impl Iterator<Item = Range<usize>> {
    maps.lines().filter_map(mapping)
}

/// `55d0c0137000-55d0c06f3000 r-xp 00136000 fe:00 1234 /path`.
fn mapping(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (place, may, offset, _, inode) = (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    // What is relocated at the start becomes read-only after that, and is not what the file has. It never lies at the beginning
    // of its file, where the constants are.
    let as_in_file = may == "r-xp" || (may == "r--p" && offset.bytes().all(|digit| digit == b'0'));
    if !as_in_file || inode == "0" {
        return None;
    }
    let (start, end) = place.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_constants_are_known_and_nothing_that_was_written() {
        let maps = "\
1000-2000 r--p 00000000 fe:00 12 /usr/bin/mesh-proxy
2000-4000 r-xp 00001000 fe:00 12 /usr/bin/mesh-proxy
4000-5000 r--p 00003000 fe:00 12 /usr/bin/mesh-proxy
5000-6000 rw-p 00004000 fe:00 12 /usr/bin/mesh-proxy
6000-7000 rw-p 00000000 00:00 0 [heap]
7000-8000 r--p 00000000 00:00 0 [vvar]
8000-9000 r-xp 00000000 00:00 0 [vdso]
9000-a000 rwxp 00000000 fe:00 13 /odd
b000-c000 r--s 00000000 fe:00 14 /shared
";
        assert_eq!(mappings(maps).collect::<Vec<_>>(), [0x1000..0x2000, 0x2000..0x4000]);
    }
}
