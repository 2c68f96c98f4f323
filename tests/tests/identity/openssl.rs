//! OpenSSL's command line as a second opinion: it makes the CSRs and CAs, and reads the certificates.
//!
//! Invariant: a command that fails shows what it said. Non-goal: wrapping more of it than is used.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

/// A CSR to be made.
pub(crate) struct Request<'a> {
    pub(crate) key: &'a [&'a str],
    pub(crate) subject: &'a str,
    pub(crate) extensions: &'a [&'a str],
}

pub(crate) const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Runs `openssl` with `input` and returns its output.
pub(crate) fn run(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A CSR in DER, with a key that nobody keeps.
pub(crate) fn csr(request: &Request<'_>) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("config");
    let extensions = request.extensions.join("\n");
    let requested = if extensions.is_empty() { "" } else { "req_extensions=asked" };
    let text = format!("[req]\ndistinguished_name=name\n{requested}\n[name]\n[asked]\n{extensions}\n");
    fs::write(&config, text).unwrap();
    let (config, key) = (config.to_str().unwrap(), dir.path().join("key"));
    let fixed = ["req", "-new", "-sha256", "-nodes", "-outform", "DER", "-config", config, "-subj", request.subject];
    let key = ["-keyout", key.to_str().unwrap(), "-newkey"];
    run(&[&fixed[..], &key, request.key].concat(), b"")
}

/// A CA in a folder: `<name>.pem` and `<name>.key`. Signed by the CA `by`, or by itself.
pub(crate) fn ca(dir: &Path, name: &str, by: Option<&str>, extensions: &[&str]) {
    let at = |name: &str, end: &str| dir.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    let config = at(name, "cnf");
    let text = format!("[req]\ndistinguished_name=name\n[name]\n[asked]\n{}\n", extensions.join("\n"));
    fs::write(&config, text).unwrap();
    let (key, pem, subject) = (at(name, "key"), at(name, "pem"), format!("/CN={name}"));
    let mut args = vec!["req", "-x509", "-new", "-sha256", "-nodes", "-config", &config, "-extensions", "asked"];
    args.extend(["-subj", &subject, "-days", "30", "-keyout", &key, "-out", &pem, "-newkey"]);
    args.extend(P256);
    let issuer = by.map(|by| [at(by, "pem"), at(by, "key")]);
    if let Some([pem, key]) = &issuer {
        args.extend(["-CA", pem, "-CAkey", key]);
    }
    run(&args, b"");
}

/// A CA as [`ca`] makes them, but its time is over. OpenSSL's command refuses to make one.
pub(crate) fn expired_ca(dir: &Path, name: &str, by: &str) {
    let read = |end: &str| fs::read_to_string(dir.join(format!("{by}.{end}"))).unwrap();
    let signer = KeyPair::from_pem(&read("key")).unwrap();
    let signer = rcgen::Issuer::from_ca_cert_pem(&read("pem"), signer).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &signer).unwrap();
    fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// What a CA certificate asks for.
pub(crate) const CA: &[&str] = &[
    "basicConstraints=critical,CA:TRUE",
    "keyUsage=critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier=hash",
    "authorityKeyIdentifier=keyid",
];

/// Some fields of a certificate, as text.
pub(crate) fn text(der: &[u8], fields: &[&str]) -> String {
    let output = run(&[&["x509", "-inform", "DER", "-noout"], fields].concat(), der);
    String::from_utf8(output).unwrap()
}

/// PEM of a certificate in DER.
pub(crate) fn pem(der: &[u8]) -> Vec<u8> {
    run(&["x509", "-inform", "DER"], der)
}
