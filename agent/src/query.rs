//! `podwire-agent status`, `peers`, `drops`, `healthz` and `livez`: questions to the running agent.

use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{client, view};
use crate::args::{Output, QueryArgs};
use crate::control::status::{DropRow, PeerRow, Status};

/// HTTP's OK.
const OK: u16 = 200;

pub(crate) fn status(args: &QueryArgs) -> anyhow::Result<()> {
    show(args, "/status", |status: &Status| view::status(status))
}

pub(crate) fn peers(args: &QueryArgs) -> anyhow::Result<()> {
    show(args, "/peers", |rows: &Vec<PeerRow>| view::peers(rows))
}

pub(crate) fn drops(args: &QueryArgs) -> anyhow::Result<()> {
    show(args, "/drops", |rows: &Vec<DropRow>| view::drops(rows))
}

pub(crate) fn healthz(args: &QueryArgs) -> anyhow::Result<()> {
    probe(args, "/healthz")
}

pub(crate) fn livez(args: &QueryArgs) -> anyhow::Result<()> {
    probe(args, "/livez")
}

fn probe(args: &QueryArgs, question: &str) -> anyhow::Result<()> {
    let (code, body) = runtime()?.block_on(client::ask(&args.run_dir, question))?;
    let text = String::from_utf8_lossy(&body);
    anyhow::ensure!(code == OK, "{}", text.trim_end());
    print(&text)
}

fn show<T: DeserializeOwned + Serialize>(
    args: &QueryArgs,
    question: &str,
    view: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let answer: T = runtime()?.block_on(client::query(&args.run_dir, question))?;
    match args.output {
        Output::Text => print(&view(&answer)),
        Output::Json => print(&(serde_json::to_string_pretty(&answer)? + "\n")),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}
