//! Millrace's contracts: generated code and the codecs between events and the domain.
