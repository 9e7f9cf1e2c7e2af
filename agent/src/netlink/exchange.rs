//! One rtnetlink request and its answers.

use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

/// The kernel answers within the system call; what takes this long never comes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// A dump that the kernel's state changed under is repeated this often: on a node whose routes
/// never rest, a snapshot with a seam is still better than none, so the last one counts.
const DUMP_ATTEMPTS: usize = 5;

/// Sends a request that changes something and waits for its acknowledgement.
pub(super) async fn change(
    handle: &Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<()> {
    exchange(handle, message, flags | NLM_F_ACK)
        .await
        .map(|_| ())
}

/// Asks for one object.
pub(super) async fn get(
    handle: &Handle,
    message: RouteNetlinkMessage,
) -> io::Result<RouteNetlinkMessage> {
    let answers = exchange(handle, message, 0).await?;
    answers
        .messages
        .into_iter()
        .next()
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Asks for all objects of a kind, as one consistent snapshot where the kernel lets us.
pub(super) async fn dump(
    handle: &Handle,
    message: RouteNetlinkMessage,
) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut answers = exchange(handle, message.clone(), NLM_F_DUMP).await?;
    for _ in 1..DUMP_ATTEMPTS {
        if !answers.interrupted {
            break;
        }
        answers = exchange(handle, message.clone(), NLM_F_DUMP).await?;
    }
    Ok(answers.messages)
}

struct Answers {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

async fn exchange(
    handle: &Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Answers> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut replies = handle.clone().request(request).map_err(|_| gone())?;
    let mut answers = Answers {
        messages: Vec::new(),
        interrupted: false,
    };
    // A stream that just ends says nothing: the connection may have died. Success takes an
    // acknowledgement, the end of a dump, or the object that was asked for.
    let mut complete = false;
    let collect = async {
        while let Some(reply) = replies.next().await {
            answers.interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
            if let NetlinkPayload::Error(error) = &reply.payload {
                match error.code {
                    Some(_) => return Err(error.to_io()),
                    None => complete = true,
                }
            } else if let NetlinkPayload::Done(done) = &reply.payload {
                if done.code < 0 {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                complete = true;
            } else if let NetlinkPayload::Overrun(_) = &reply.payload {
                return Err(Errno::NOBUFS.into());
            } else if let NetlinkPayload::InnerMessage(inner) = reply.payload {
                answers.messages.push(inner);
            }
        }
        Ok(())
    };
    tokio::time::timeout(ANSWER_DEADLINE, collect).await??;
    let single = flags & (NLM_F_ACK | NLM_F_DUMP) == 0 && !answers.messages.is_empty();
    if complete || single {
        Ok(answers)
    } else {
        Err(gone())
    }
}
