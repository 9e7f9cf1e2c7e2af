//! The program as a user runs it: exit codes, sentences, names.

mod api_server;
mod denied;
mod folder;
mod invocation;
mod requests;
mod rotation;
mod running;
mod usage;
mod watch;
