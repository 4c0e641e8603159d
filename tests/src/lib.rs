//! Millrace from outside: end to end, over the local AWS.
