//! Who the API server takes this agent, or an operator, for.

use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use podwire_core::node::NodeName;
use serde::Deserialize;
use serde_json::json;
use tracing::{debug, warn};

use super::failure::Failure;
use super::requests::within;

/// Everybody may ask it about themselves.
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// What a token that is bound to a pod says of its node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What one that is bound to a Node alone does not say.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

#[derive(Debug, Default, Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(rename = "userInfo", default)]
    user_info: UserInfo,
}

#[derive(Debug, Default, Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// Says so when the token is a service account's and not bound to a pod of the own node: the
/// policies refuse what it publishes, and without them it could speak for every node.
/// Returns whether there was an answer.
pub(super) async fn check(client: &Client, own: &NodeName) -> bool {
    match review(client).await {
        Ok(user) => {
            if let Some(mistake) = mistake(&user, own) {
                warn!("{mistake}");
            }
            true
        }
        Err(failure) => {
            debug!(%failure, "cannot ask who this agent is taken for");
            false
        }
    }
}

/// The name by which the API server knows whoever asks it with these credentials.
///
/// # Errors
/// Typed; also when the server names nobody.
pub async fn user_name(client: &Client) -> Result<String, Failure> {
    let username = review(client).await?.username;
    if username.is_empty() {
        return Err(Failure::Other("it does not say who asks".to_owned()));
    }
    Ok(username)
}

async fn review(client: &Client) -> Result<UserInfo, Failure> {
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let request = Request::new(REVIEWS);
    let request = request.create(&PostParams::default(), body.to_string().into_bytes());
    let request = request.map_err(|error| Failure::Other(error.to_string()))?;
    let review: Review = within(client.request(request)).await?;
    Ok(review.status.user_info)
}

fn mistake(user: &UserInfo, own: &NodeName) -> Option<String> {
    let UserInfo { username, extra } = user;
    // Whoever runs it by hand knows as whom.
    if !username.starts_with(SERVICE_ACCOUNT) {
        return None;
    }
    let node = extra.get(NODE_NAME).and_then(|names| names.first());
    match node.filter(|_| extra.contains_key(POD_NAME)) {
        Some(name) if name == own.as_str() => None,
        Some(name) => Some(format!(
            "the token of {username:?} is for a pod on node {name:?} and this node is {own}: is \
             --node-name right? The record cannot be published where the admission policies are \
             in force"
        )),
        None => Some(format!(
            "the token of {username:?} is bound to no pod, so that it does not say on which node \
             it is used: mount a projected one, as deploy/ does. The record cannot be published \
             where the admission policies are in force"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(username: &str, node: Option<&str>) -> UserInfo {
        let said = |key: &str, value: &str| (key.to_owned(), vec![value.to_owned()]);
        let bound = node.map(|name| [said(NODE_NAME, name), said(POD_NAME, "a-pod")]);
        UserInfo {
            username: username.to_owned(),
            extra: bound.into_iter().flatten().collect(),
        }
    }

    #[test]
    fn a_service_account_must_be_bound_to_a_pod_of_the_own_node() {
        let own = "node-1".parse().expect("a name");
        let account = "system:serviceaccount:podwire-system:podwire-agent";
        assert_eq!(mistake(&user(account, Some("node-1")), &own), None);
        assert_eq!(mistake(&user("admin", None), &own), None);
        let other = mistake(&user(account, Some("node-2")), &own).expect("a mistake");
        assert!(
            other.contains("node-2") && other.contains("--node-name"),
            "{other}"
        );
        let mut of_node = user(account, Some("node-1"));
        of_node.extra.remove(POD_NAME);
        assert!(
            mistake(&of_node, &own).is_some(),
            "bound to a Node, by whoever chose it"
        );
        let unbound = mistake(&user(account, None), &own).expect("a mistake");
        assert!(unbound.contains("bound to no pod"), "{unbound}");
    }
}
