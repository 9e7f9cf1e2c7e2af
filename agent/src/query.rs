//! `podwire-agent status`, `peers`, `drops`, `healthz` and `livez`: questions to the running agent;
//! `rotate`, `abort` and `revoke`: requests to it.

use std::io::Write as _;

use anyhow::Context as _;
use podwire_core::request::{Request, Verb};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{client, view};
use crate::args::{KeyArgs, Output, QueryArgs};
use crate::control::status::{DropRow, PeerRow, Status};

/// HTTP's OK.
const OK: u16 = 200;

/// HTTP's Accepted.
const ACCEPTED: u16 = 202;

/// Who asks over a socket that root alone may open.
const ASKING: &str = "root";

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

pub(crate) fn request(verb: Verb, args: &KeyArgs) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let run_dir = &args.run_dir;
    let if_key_generation = match args.if_key_generation {
        Some(asked) => asked,
        None => {
            let status: Status = runtime.block_on(client::query(run_dir, "/status"))?;
            status.key_generation
        }
    };
    let request = Request {
        verb,
        if_key_generation,
        by: ASKING.to_owned(),
    };
    let path = format!("/requests/{}", verb.name());
    let (code, body) = runtime.block_on(client::tell(run_dir, &path, request.value()))?;
    let text = String::from_utf8_lossy(&body);
    anyhow::ensure!(code == ACCEPTED, "{}", text.trim_end());
    print(&text)
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
