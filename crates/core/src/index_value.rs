//! Values that rows can be listed or found by.

use serde::de::DeserializeOwned;

use crate::Timestamp;

/// A value that rows can be listed or found by.
pub trait IndexValue: DeserializeOwned {
    /// The text of the value in an index, equal for values to be found together; `None` for a value that is in no
    /// index.
    fn index_value(&self) -> Option<String>;
}

impl IndexValue for String {
    fn index_value(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl IndexValue for Timestamp {
    fn index_value(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: IndexValue> IndexValue for Option<T> {
    fn index_value(&self) -> Option<String> {
        self.as_ref().and_then(T::index_value)
    }
}
