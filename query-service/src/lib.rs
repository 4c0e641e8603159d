//! Millrace's query service: gRPC queries answered from the read models.
