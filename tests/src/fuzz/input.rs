//! Bytes as a source of choices.
//!
//! Invariant: never runs dry: behind the end there are zeros.

/// What is left of the bytes.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.u16()) % end.max(1)
    }

    /// Up to `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All that is left, in pieces whose sizes the first byte chooses: whole, single bytes, or uneven ones.
    pub(super) fn pieces(&mut self) -> Vec<&'a [u8]> {
        let size = usize::from(self.byte());
        let all = std::mem::take(&mut self.0);
        match size {
            0 => vec![all],
            size => all.chunks(size).collect(),
        }
    }
}
