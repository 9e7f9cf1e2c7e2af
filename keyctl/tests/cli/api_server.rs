//! What answers like an API server, where an answer is all that a test needs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// Answers to paths: HTTP's code and a body of JSON.
pub(crate) type Answers = fn(&str) -> (u16, String);

/// Starts one that answers until the tests end.
pub(crate) fn start(answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Whoever went away needs no answer.
            let _ = answer(connection, answers);
        }
    });
    address
}

fn answer(mut connection: TcpStream, answers: Answers) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (code, body) = answers(path);
    write!(
        connection,
        "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// What the API server says to those who may not.
pub(crate) fn forbidden(what: &str) -> (u16, String) {
    let body = format!(
        r#"{{"kind": "Status", "apiVersion": "v1", "metadata": {{}}, "status": "Failure",
        "message": "{what} is forbidden: User \"eve\" cannot read it", "reason": "Forbidden",
        "code": 403}}"#
    );
    (403, body)
}

/// A kubeconfig with this server in its current context, and one in the context `other`.
pub(crate) fn kubeconfig(current: SocketAddr, other: SocketAddr) -> tempfile::NamedTempFile {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: current\n\
         contexts:\n\
         - {{name: current, context: {{cluster: current, user: eve}}}}\n\
         - {{name: other, context: {{cluster: other, user: eve}}}}\n\
         clusters:\n\
         - {{name: current, cluster: {{server: \"http://{current}\"}}}}\n\
         - {{name: other, cluster: {{server: \"http://{other}\"}}}}\n\
         users:\n\
         - {{name: eve, user: {{token: secret}}}}\n"
    );
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("write");
    file
}
