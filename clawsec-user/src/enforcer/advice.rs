//! What an operator can do when a driver takes no XDP program: one command, ready to be run.
//!
//! Pure: the device's figures and the kernel's answer in, a line out. The limits are the drivers'
//! own, for programs that take frames in several parts (`xdp.frags`) where the driver can.

/// What is known of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// Such as `virtio_net`; a virtual device's kind, such as `veth`.
    pub(super) driver: Option<String>,
    pub(super) mtu: u32,
    pub(super) rx_queues: u32,
}

/// The command that helps, if one is known.
pub(super) fn remedy(
    interface: &str,
    device: &Device,
    errno: Option<i32>,
    told: Option<&str>,
) -> Option<String> {
    let told = told.unwrap_or_default().to_ascii_lowercase();
    let says = |word: &str| told.contains(word);
    let driver = device.driver.as_deref().unwrap_or_default();
    let halved = (device.rx_queues / 2).max(1);

    if says("gro_hw") || says("gro-hw") {
        return Some(format!("ethtool -K {interface} rx-gro-hw off"));
    }
    if says("lro") {
        return Some(format!("ethtool -K {interface} lro off"));
    }
    if driver == "veth" && errno == Some(libc::ENOSPC) {
        // The peer would send on queues that this end does not read.
        return Some(format!(
            "ethtool -L {interface} rx N, with N the other end's number of tx queues"
        ));
    }
    if says("mtu") || errno == Some(libc::ERANGE) {
        let limit = mtu_limit(driver).unwrap_or(1500);
        return Some(format!("ip link set dev {interface} mtu {limit}"));
    }
    if says("queue") || says("ring") || says("channel") {
        return Some(format!("ethtool -L {interface} combined {halved}"));
    }
    if let Some(limit) = mtu_limit(driver).filter(|limit| device.mtu > *limit) {
        return Some(format!("ip link set dev {interface} mtu {limit}"));
    }
    match (driver, errno) {
        // Each queue needs a second one to send on, of the same number.
        ("ena" | "gve", Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSPC))
        | ("virtio_net", Some(libc::ENOMEM)) => {
            Some(format!("ethtool -L {interface} combined {halved}"))
        }
        ("virtio_net", Some(libc::EOPNOTSUPP)) => {
            Some(format!("ethtool -K {interface} lro off rx-gro-hw off"))
        }
        _ => None,
    }
}

/// The largest MTU with which a driver takes an XDP program.
fn mtu_limit(driver: &str) -> Option<u32> {
    match driver {
        "ena" => Some(3498),
        "virtio_net" | "bnxt_en" => Some(3502),
        "veth" => Some(3520),
        "ixgbe" | "ixgbevf" => Some(3050),
        "gve" => Some(2030),
        "tun" => Some(1500),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_line_that_helps() {
        type Row = (
            &'static str,
            &'static str,
            u32,
            i32,
            &'static str,
            Option<&'static str>,
        );
        let rows: [Row; 9] = [
            (
                "jumbo frames on ENA",
                "ena",
                9001,
                libc::EINVAL,
                "",
                Some("ip link set dev eth0 mtu 3498"),
            ),
            (
                "all of ENA's queues in use",
                "ena",
                1500,
                libc::EINVAL,
                "",
                Some("ethtool -L eth0 combined 4"),
            ),
            (
                "virtio merges frames",
                "virtio_net",
                1500,
                libc::EOPNOTSUPP,
                "Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first",
                Some("ethtool -K eth0 rx-gro-hw off"),
            ),
            (
                "virtio has no queue to send on",
                "virtio_net",
                1500,
                libc::ENOMEM,
                "Too few free TX rings available",
                Some("ethtool -L eth0 combined 4"),
            ),
            (
                "virtio and large frames",
                "virtio_net",
                9000,
                libc::EINVAL,
                "MTU too large to enable XDP without frags",
                Some("ip link set dev eth0 mtu 3502"),
            ),
            (
                "the peer's frames are too large",
                "veth",
                1500,
                libc::ERANGE,
                "Peer MTU is too large to set XDP",
                Some("ip link set dev eth0 mtu 3520"),
            ),
            (
                "the peer has more queues",
                "veth",
                1500,
                libc::ENOSPC,
                "XDP expects number of rx queues not less than peer tx queues",
                Some("ethtool -L eth0 rx N, with N the other end's number of tx queues"),
            ),
            (
                "LRO is on",
                "mlx5_core",
                1500,
                libc::EINVAL,
                "XDP is not allowed with LRO on",
                Some("ethtool -K eth0 lro off"),
            ),
            (
                "a driver without XDP",
                "e1000",
                1500,
                libc::EOPNOTSUPP,
                "",
                None,
            ),
        ];
        for (row, driver, mtu, errno, told, expected) in rows {
            let device = Device {
                driver: Some(driver.to_owned()),
                mtu,
                rx_queues: 8,
            };
            let told = (!told.is_empty()).then_some(told);
            let line = remedy("eth0", &device, Some(errno), told);
            assert_eq!(line.as_deref(), expected, "{row}");
        }
    }
}
