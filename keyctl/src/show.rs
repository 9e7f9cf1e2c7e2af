//! Reads, reports and prints: once, or again and again.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::args::ReadArgs;
use crate::outcome::Outcome;
use crate::output::{Report, Row, render, separator};
use crate::source::{ReadError, Snapshot, Source, Wanted};
use crate::status::NoSuchNode;
use crate::write::WriteError;

/// How often `--watch` looks: what people look at need not be newer, and one list costs an API
/// server little.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Where a reader may have gone away, as `head` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

/// Prints what `report` makes of what is read. With `--watch` it ends only by an error.
///
/// # Errors
/// When nothing can be read or written.
pub(crate) async fn show<R: Row>(
    program: &str,
    args: &ReadArgs,
    wanted: Wanted<'_>,
    report: impl Fn(&Snapshot) -> Result<Report<R>, NoSuchNode>,
) -> anyhow::Result<Outcome> {
    let source = Source::open(&args.source).await?;
    let first = report(&source.read(wanted).await?)?;
    if print(program, &first, args, "")? == Reader::Gone || !args.watch {
        return Ok(first.outcome);
    }
    let mut shown = first;
    let mut trouble = None;
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let read = source.read(wanted).await;
        let next = match read
            .map_err(anyhow::Error::from)
            .and_then(|it| Ok(report(&it)?))
        {
            Ok(next) => next,
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                tell_once(program, &mut trouble, sentence(&error));
                continue;
            }
        };
        trouble = None;
        if next != shown && print(program, &next, args, separator(args.output))? == Reader::Gone {
            return Ok(next.outcome);
        }
        shown = next;
    }
}

/// Whether looking again is of no use: the user may not.
pub(crate) fn is_final(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ReadError>();
    error.is_some_and(|error| error.exit_code() == crate::outcome::EXIT_DENIED)
}

/// What goes on is told once, until it is another trouble.
pub(crate) fn tell_once(program: &str, told: &mut Option<String>, trouble: String) {
    if told.as_ref() != Some(&trouble) {
        tell(program, &trouble);
        *told = Some(trouble);
    }
}

/// An error as one line.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    // These tell their causes themselves. A kubeconfig that is no YAML is quoted on further lines:
    // it has secrets.
    let told = error.downcast_ref::<ReadError>().map(ToString::to_string);
    let told = told.or_else(|| error.downcast_ref::<WriteError>().map(ToString::to_string));
    let text = told.unwrap_or_else(|| format!("{error:#}"));
    text.lines().next().unwrap_or_default().to_owned()
}

/// Says something to people.
pub(crate) fn tell(program: &str, text: &str) {
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(io::stderr(), "{program}: {text}");
}

/// Says something that goes on to people whose program reads the data.
pub(crate) fn tell_line(text: &str) {
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

fn print<R: Row>(
    program: &str,
    report: &Report<R>,
    args: &ReadArgs,
    before: &str,
) -> anyhow::Result<Reader> {
    let text = render(&report.rows, args, Timestamp::now())?;
    let reader = write(&format!("{before}{text}"))?;
    if let Some(note) = &report.note {
        tell(program, note);
    }
    Ok(reader)
}

fn write(text: &str) -> anyhow::Result<Reader> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// Prints a text that is no report.
///
/// # Errors
/// When standard output does not take it.
pub(crate) fn print_text(text: &str) -> anyhow::Result<Outcome> {
    write(text).map(|_| Outcome::Ok)
}
