//! The cluster's certificate authority and what it signs.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// What pods call the API.
const SERVICE_NAME: &str = "kubernetes.default.svc";

/// An authority and its key.
#[derive(Debug)]
pub(super) struct Authority {
    generation: u32,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
pub(super) struct CertifiedKey {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    /// A new one. Each generation has a name of its own: two of one name would be taken for each
    /// other by whoever trusts both.
    pub(super) fn new(generation: u32) -> Result<Self> {
        let mut parameters = named(&format!("testbed authority {generation}"), &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        Ok(Self { generation, issuer })
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// One by which the API server shows kubelets who it is: one of those who may do everything.
    pub(super) fn kubelet_client_certificate(&self) -> Result<CertifiedKey> {
        let mut parameters = named("kube-apiserver", &[])?;
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(CertifiedKey {
            certificate: parameters.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The API server's own, for these addresses, the loopback and the Service's name.
    pub(super) fn serving_certificate(&self, addresses: &[IpAddr]) -> Result<CertifiedKey> {
        let mut names: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        names.push(Ipv4Addr::LOCALHOST.to_string());
        names.push(SERVICE_NAME.to_owned());
        let mut parameters = named("kube-apiserver", &names)?;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok(CertifiedKey {
            certificate: parameters.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn named(name: &str, alternatives: &[String]) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(alternatives)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, name.to_owned());
    Ok(parameters)
}
