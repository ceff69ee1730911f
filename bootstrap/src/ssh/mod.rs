//! SSH: reaching a host as OpenSSH would, and running commands there.
