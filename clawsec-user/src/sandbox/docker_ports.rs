//! What containers publish on this host; asked by `clawsec check`.

use std::net::IpAddr;
use std::path::Path;

use bollard::query_parameters::ListContainersOptions;

use super::SandboxError;
use super::docker::connect;

/// What containers publish on this host: the container's name, the host's address and port, the
/// container's port.
///
/// # Errors
/// When docker does not answer, or not to this user.
pub async fn published_ports(
    socket: &Path,
) -> Result<Vec<(String, IpAddr, u16, u16)>, SandboxError> {
    let client = connect(socket).await?;
    let listed = client.list_containers(None::<ListContainersOptions>).await;
    let listed = listed.map_err(SandboxError::docker("list its containers"))?;
    let mut found = Vec::new();
    for container in listed {
        let names = container.names.unwrap_or_default();
        let name = names
            .first()
            .map_or("a container", |name| name.trim_start_matches('/'));
        for port in container.ports.unwrap_or_default() {
            let address = port.ip.as_deref().and_then(|ip| ip.parse().ok());
            if let (Some(address), Some(public)) = (address, port.public_port) {
                found.push((name.to_owned(), address, public, port.private_port));
            }
        }
    }
    Ok(found)
}
