//! Private servers and processes for farcall's tests.
