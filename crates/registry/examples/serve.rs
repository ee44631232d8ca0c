//! A registry to try and to test: `serve --root DIR [--listen ADDR] [--tls-cert FILE --tls-key FILE] [--htpasswd FILE]
//! [--proxy DOMAIN] [--grace-ms N] [--collect-ms N]`. Prints its address when it can be reached.

use std::path::PathBuf;
use std::time::Duration;

use registry::client::{Client, ClientConfig, Credentials};
use registry::server::{Config, Server, TlsFiles, Upstream};
use registry::storage::{Collection, Untagged};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut config = Config::new("127.0.0.1:0".parse()?, PathBuf::new());
    let (mut certificate, mut key) = (None, None);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--collect-ms" => {
                let how = Collection { untagged: Untagged::Remove, ..Collection::default() };
                config.collect = Some((Duration::from_millis(value.parse()?), how));
            }
            "--grace-ms" => config.grace = Duration::from_millis(value.parse()?),
            "--htpasswd" => config.htpasswd = Some(value.into()),
            "--listen" => config.listen = value.parse()?,
            "--proxy" => {
                let client = Client::new(ClientConfig::default(), Credentials::of_user());
                config.proxy = Some(Upstream { domain: value, client });
            }
            "--root" => config.root = value.into(),
            "--tls-cert" => certificate = Some(value.into()),
            "--tls-key" => key = Some(value.into()),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    config.tls = certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate, key, clients: None });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (teller, stop) = tokio::sync::watch::channel(false);
        let server = Server::bind(config).await?;
        println!("{}", server.address()?);
        tokio::spawn(async move {
            // Without a signal it goes on until it is killed.
            if tokio::signal::ctrl_c().await.is_ok() {
                let _ = teller.send(true);
            }
        });
        server.run(stop).await?;
        Ok(())
    })
}
