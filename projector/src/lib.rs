//! Millrace's projector: events from the queues into the read models.
