//! Services whose replies are compressed.

/// Generated services, as [`Services`](crate::Services). Replies are compressed if the caller accepts it and they are
/// [worth it](crate::reply).
#[macro_export]
macro_rules! services {
    ($($service:expr),* $(,)?) => {
        $crate::Services::default()$(.and($crate::__compressing!($service)))*
    };
}

/// Generated services have these methods by the same names, and no trait.
#[doc(hidden)]
#[macro_export]
macro_rules! __compressing {
    ($service:expr) => {
        $crate::__private::bounded!($service)
            .send_compressed($crate::__private::Gzip)
            .send_compressed($crate::__private::Zstd)
    };
}
