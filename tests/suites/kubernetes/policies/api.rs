//! Requests to the API server as anybody, as they are: no client between that mends or refuses them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use podwire_testbed::ControlPlane;
use serde_json::{Value, json};

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    /// What messages call them.
    pub(crate) name: String,
    /// A bearer token; with an empty one they are anonymous.
    pub(crate) token: String,
    /// Whom the holder of the token stands for: a user and their groups.
    pub(crate) stands_for: Option<(String, Vec<String>)>,
    /// The field manager by whose name they apply.
    pub(crate) manager: &'static str,
}

/// One HTTP request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Value,
}

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self::json("GET", path, Value::Null)
    }

    pub(crate) fn post(path: &str, body: Value) -> Self {
        Self::json("POST", path, body)
    }

    pub(crate) fn delete(path: &str) -> Self {
        Self::json("DELETE", path, json!({"gracePeriodSeconds": 0}))
    }

    pub(crate) fn json(method: &'static str, path: &str, body: Value) -> Self {
        Self {
            method,
            path: path.to_owned(),
            content_type: "application/json",
            body,
        }
    }
}

/// What the API server says.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The object after the request.
    Done(Value),
    Refused {
        code: u16,
        message: String,
    },
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("done"),
            Self::Refused { code, message } => write!(f, "{code} {message}"),
        }
    }
}

/// A way to the API server.
#[allow(missing_debug_implementations, reason = "clients")]
pub(crate) struct Api {
    pub(crate) cluster: ControlPlane,
    /// By token: a connection each.
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Api {
    pub(crate) fn new(cluster: ControlPlane) -> Self {
        Self {
            cluster,
            clients: Mutex::default(),
        }
    }

    /// Sends one request, and returns what the server says to it.
    pub(crate) fn ask(&self, person: &Person, request: &Request) -> Result<Answer> {
        self.exchange(person, request)
            .with_context(|| format!("{} {} as {}", request.method, request.path, person.name))
    }

    /// As [`Self::ask`], of what has to work.
    pub(crate) fn done(&self, person: &Person, request: &Request) -> Result<Value> {
        match self.ask(person, request)? {
            Answer::Done(object) => Ok(object),
            refused @ Answer::Refused { .. } => bail!(
                "{} {} as {}: {refused}",
                request.method,
                request.path,
                person.name
            ),
        }
    }

    fn exchange(&self, person: &Person, request: &Request) -> Result<Answer> {
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(&request.path)
            .header("Accept", "application/json")
            .header("Content-Type", request.content_type);
        if let Some((user, groups)) = &person.stands_for {
            builder = builder.header("Impersonate-User", user);
            for group in groups {
                builder = builder.header("Impersonate-Group", group);
            }
        }
        let body = if request.body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(&request.body)?
        };
        let client = self.client(&person.token)?;
        match self.cluster.run(client.request(builder.body(body)?)) {
            Ok(object) => Ok(Answer::Done(object)),
            Err(kube::Error::Api(status)) => Ok(Answer::Refused {
                code: status.code,
                message: status.message,
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn client(&self, token: &str) -> Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(token) {
            return Ok(client.clone());
        }
        let client = self.cluster.client_as(token)?;
        clients.insert(token.to_owned(), client.clone());
        Ok(client)
    }
}
