//! Who a token says that its owner is, and for how long.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};
use podwire_testbed::agent_view::wait_status;
use podwire_testbed::control_plane::{ADMIN_TOKEN, AGENT_USER, kubelet_token, user_token};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Topology, until};

use crate::outage::DEADLINE;
use crate::scene::{annotation, cluster, topology};

pub(crate) const TESTS: &[Test] = &[
    (
        "an_agents_token_names_its_node_and_ends_with_its_pod",
        bound_tokens,
    ),
    (
        "the_token_of_another_nodes_pod_publishes_nothing_and_the_log_names_the_mistake",
        another_nodes_token,
    ),
    ("static_tokens_are_whom_they_name", static_tokens),
    ("a_short_token_is_accepted_and_then_not", short_tokens),
];

const HOUR: Duration = Duration::from_secs(3600);

/// The user of a client, and the node that its token names.
async fn who_am_i(client: Client) -> kube::Result<(String, Option<String>)> {
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = SelfSubjectReview::default();
    let review = reviews.create(&PostParams::default(), &review).await?;
    let user = review.status.and_then(|status| status.user_info);
    let user = user.unwrap_or_default();
    let mut extra = user.extra.unwrap_or_default();
    let node = extra.remove("authentication.kubernetes.io/node-name");
    let node = node.and_then(|nodes| nodes.into_iter().next());
    Ok((user.username.unwrap_or_default(), node))
}

fn ask(cluster: &ControlPlane, token: &str) -> Result<(String, Option<String>)> {
    let client = cluster.client_as(token)?;
    cluster.run(who_am_i(client)).context("asking who I am")
}

fn refused(cluster: &ControlPlane, token: &str) -> Result<()> {
    let client = cluster.client_as(token)?;
    match cluster.run(who_am_i(client)) {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

fn bound_tokens(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    for node in bed.nodes() {
        let credentials = cluster.join(node)?;
        let told = ask(&cluster, &credentials.token()?)?;
        let name = node.name().to_owned();
        ensure!(told == (AGENT_USER.to_owned(), Some(name)), "{told:?}");
    }
    let told = ask(&cluster, &cluster.unbound_token()?)?;
    ensure!(told == (AGENT_USER.to_owned(), None), "{told:?}");
    let told = ask(&cluster, &cluster.token_of("default", "other")?)?;
    ensure!(told.0 == "system:serviceaccount:default:other", "{told:?}");
    // Another pod in the place of the first, as on a restart.
    let first = cluster.agent_credentials("node-1", HOUR)?;
    let first_token = first.token()?;
    let second = cluster.agent_credentials("node-1", HOUR)?;
    ask(&cluster, &second.token()?)?;
    until(DEADLINE, "the end of the first pod's token", || {
        refused(&cluster, &first_token)
    })?;
    cluster.revoke(&second)?;
    until(DEADLINE, "the end of the second pod's token", || {
        refused(&cluster, &second.token()?)
    })
}

fn another_nodes_token(context: &Context) -> Result<()> {
    let (bed, cluster) = cluster(context, &topology(2))?;
    let of_first = cluster.join(bed.node(1))?;
    let second = bed.node(2);
    cluster.join(second)?;
    second.use_kubernetes(&of_first.kubeconfig());
    second.start_agent()?;
    wait_status(second, "the refusal of its record", |status| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.contains("may only update the Node on which it runs"))
    })?;
    let log = second.log();
    ensure!(log.contains("is for a pod on node \"node-1\""), "{log}");
    let record = annotation(&cluster, "node-2", "public-key");
    ensure!(record.is_err(), "it has published {record:?}");
    Ok(())
}

fn static_tokens(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let users = [
        (ADMIN_TOKEN.to_owned(), "admin"),
        (kubelet_token("node-1"), "system:node:node-1"),
        (user_token("alice"), "alice"),
        (String::new(), "system:anonymous"),
    ];
    for (token, user) in users {
        let client = cluster.client_as(&token)?;
        // Nobody may ask even this.
        if user == "system:anonymous" {
            let answer = cluster.run(who_am_i(client));
            let text = format!("{answer:?}");
            ensure!(answer.is_err() && text.contains(user), "{text}");
            continue;
        }
        let (told, _) = ask(&cluster, &token)?;
        ensure!(told == user, "{told} in place of {user}");
    }
    refused(&cluster, "a-token-of-nobody")?;
    // A kubelet of another node may not write this one.
    let node = bed.node(1);
    cluster.create_node(node.name(), &node.manifest().addresses)?;
    let other = kubelet_token("node-2");
    let annotate = ["annotate", "node", node.name(), "podwire.test/a=b"];
    let denied = cluster.kubectl_as(&other, &annotate, "");
    let denied = format!("{:#}", denied.err().context("another node's was written")?);
    ensure!(denied.contains("orbidden"), "{denied}");
    cluster.kubectl_as(&kubelet_token("node-1"), &annotate, "")?;
    Ok(())
}

fn short_tokens(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let credentials = cluster.join(bed.node(1))?;
    cluster.renew_token(&credentials, Duration::from_secs(15))?;
    let token = credentials.token()?;
    let told = ask(&cluster, &token)?;
    ensure!(told.1.as_deref() == Some("node-1"), "{told:?}");
    until(DEADLINE, "the token's end", || refused(&cluster, &token))?;
    cluster.renew_token(&credentials, HOUR)?;
    ask(&cluster, &credentials.token()?).map(drop)
}
