//! Reads the admission policies from an API server.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{Api, Client, Resource};
use podwire_registry::kubernetes::Failure;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::policies::{Installed, NAMES, Policies};

/// How long the answer about one object may take: servers that are busy answer within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads the policies and their bindings. That the user may not is a finding, no failure.
pub(crate) async fn read(client: &Client) -> Result<Policies, Failure> {
    match read_all(client).await {
        Ok(installed) => Ok(Policies::Read(installed)),
        Err(Failure::Denied(message)) => Ok(Policies::Denied(message)),
        Err(failure) => Err(failure),
    }
}

async fn read_all(client: &Client) -> Result<Vec<Installed>, Failure> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let mut installed = Vec::new();
    for name in NAMES {
        installed.push(Installed {
            name,
            policy: get(&policies, name).await?,
            binding: get(&bindings, name).await?,
        });
    }
    Ok(installed)
}

/// `None` where there is none, also on a server from before such policies.
async fn get<K: Resource + Clone + Debug + DeserializeOwned>(
    objects: &Api<K>,
    name: &str,
) -> Result<Option<K>, Failure> {
    Ok(timeout(ANSWER_TIMEOUT, objects.get_opt(name)).await??)
}
