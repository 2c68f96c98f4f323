//! The control plane under many proxies.
