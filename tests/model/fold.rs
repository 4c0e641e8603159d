//! A quick hash of states.

use std::hash::Hasher;

/// Folds numbers into one, each by a turn and a multiplication. The standard hash is safe from hostile input, which
/// there is none of here, and takes half of the time of an exploration that is not optimised.
#[derive(Default)]
pub(crate) struct Fold(u64);

impl Fold {
    fn add(&mut self, number: u64) {
        // 2^64 divided by the golden ratio, and odd: Knuth, The Art of Computer Programming, 6.4.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        // A product's best bits are its highest, and a table looks at the lowest.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.add(u64::from(*byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.add(u64::from(number));
    }

    fn write_i8(&mut self, number: i8) {
        self.add(u64::from(number.cast_unsigned()));
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.add(number.cast_unsigned() as u64);
    }
}
