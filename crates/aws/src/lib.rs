//! How Millrace speaks to AWS: clients, time-outs, what failures mean, requests counted.
