/**
 * The shape of the guide's example answers, as facts: one line for each key with its kind and, where the example is
 * rebuilt value for value, its value. Only tests read this.
 *
 * Kinds: N JSON number; D decimal string; x hexadecimal string, lower-case digits; X hexadecimal string, upper-case
 * digits; M MAC address, upper case; T other string; O object; A array.
 */

/** `virtnet list`, `controller` (guide, lines 751 to 797). */
export const LIST_CONTROLLER = `
emulation_manager T mlx5_0
max_hotplug_devices D 0
max_virt_net_devices D 1
max_virt_queues D 256
max_tunnel_descriptors D 6
supported_features O
supported_virt_queue_types O
supported_event_modes O
`;

/** `virtnet list`, a static PF without a driver (guide, lines 798 to 836). */
export const LIST_PF = `
pf_id N 0
function_type T static PF
transitional N 0
vuid T MT2306XZ00BNVNETS0D0F2
pci_bdf T e2:00.2
pci_vhca_id X 0x2
pci_max_vfs D 0
enabled_vfs D 0
msix_num_pool_size N 0
min_msix_num N 0
max_msix_num N 256
min_num_of_qp N 0
max_num_of_qp N 127
qp_pool_size N 0
num_msix D 256
num_queues D 255
enabled_queues D 0
max_queue_size D 256
msix_config_vector X 0xFFFF
mac M 16:B0:E0:41:B8:0D
link_status D 1
max_queue_pairs D 127
mtu D 1500
speed D 100000
rss_max_key_size D 0
supported_hash_types x 0x0
ctrl_mac M 00:00:00:00:00:00
ctrl_mq D 0
sf_num N 1000
sf_parent_device T mlx5_0
sf_parent_device_pci_addr T 0000:03:00.0
sf_rep_net_device T en3f0pf0sf1000
sf_rep_net_ifindex N 10
sf_rdma_device T mlx5_3
sf_cross_mkey X 0x12642
sf_vhca_id X 0x124
sf_rqt_num x 0x0
aarfs T disabled
dim T disabled
`;

/** Keys of a PF in list that a VF has not (guide, line 328), and those it has instead of `pf_id`. */
export const POOL_KEYS = [
  'msix_num_pool_size',
  'min_msix_num',
  'max_msix_num',
  'min_num_of_qp',
  'max_num_of_qp',
  'qp_pool_size',
];
export const VF_FIRST_KEYS = ['vf_id', 'parent_pf_id'];

/** `virtnet query -p 0` (guide, lines 917 to 1044). */
export const QUERY_DEVICE = `
pf_id N 0
function_type T static PF
transitional N 0
vuid T MT2349X00018VNETS0D0F1
pci_bdf T 23:00.1
pci_vhca_id X 0x1
pci_max_vfs D 0
enabled_vfs D 0
pci_dev_id x 0x1041
pci_vendor_id x 0x1af4
pci_class_code x 0x20000
pci_subsys_id x 0x1041
pci_subsys_vendor_id x 0x1af4
pci_revision_id D 1
device_feature O
driver_feature O
status O
reset D 0
enabled D 1
num_msix D 64
num_queues D 63
enabled_queues D 63
max_queue_size D 256
msix_config_vector X 0x0
mac M 4E:6A:E1:41:D8:BE
link_status D 1
max_queue_pairs D 31
mtu D 1500
speed D 200000
rss_max_key_size D 0
supported_hash_types x 0x0
ctrl_mac M 4E:6A:E1:41:D8:BE
ctrl_mq D 31
sf_num N 1000
sf_parent_device T mlx5_0
sf_parent_device_pci_addr T 0000:03:00.0
sf_rep_net_device T en3f0pf0sf1000
sf_rep_net_ifindex N 12
sf_rdma_device T mlx5_2
sf_cross_mkey X 0xC042
sf_vhca_id X 0x7E8
sf_rqt_num x 0x0
aarfs T disabled
dim T disabled
enabled-queues-info A
`;

/** One virtqueue of that answer (guide, lines 1017 to 1040). */
export const QUERY_QUEUE = `
index D 0
size D 256
msix_vector X 0x1
enable D 1
notify_offset D 0
descriptor_address x 0x10cece000
driver_address x 0x10cecf000
device_address x 0x10cecf240
received_desc D 256
completed_desc D 0
bad_desc_errors D 0
error_cqes D 0
exceed_max_chain D 0
invalid_buffer D 0
batch_number D 64
dma_q_used_number D 6
handler_schd_number D 4
aux_handler_schd_number D 3
max_post_desc_number D 0
total_bytes D 0
rq_cq_max_count D 0
rq_cq_period D 0
rq_cq_period_mode D 1
`;

/** `virtnet health -p 0 show` (guide, lines 1508 to 1542); a VF has `vf_id` after `pf_id`. */
export const HEALTH = `
pf_id N 0
type T static PF
vuid T MT2306XZ00BPVNETS0D0F1
dev_status O
health_status T Good
health_recover_counter N 0
dev_health_details O
`;
export const HEALTH_CONTROL_PLANE = `
sf_rqt_update_err N 0
sf_drop_create_err N 0
sf_tir_create_err N 0
steer_rx_domain_err N 0
steer_rx_table_err N 0
sf_flows_apply_err N 0
aarfs_flow_init_err N 0
vlan_flow_init_err N 0
drop_cnt_config_err N 0
`;
export const HEALTH_DATA_PLANE = `
sq_stall N 0
dma_q_stall N 0
spurious_db_invoke N 0
aux_not_invoked N 0
dma_q_errors N 0
host_read_errors N 0
`;

/** `virtnet hotplug` (guide, lines 582 to 589). */
export const HOTPLUG = `
bdf T 15:00.0
vuid T MT2151X03152VNETS1D0F0
id N 0
transitional N 0
sf_rep_net_device T en3f0pf0sf2000
mac M 0C:C4:7A:FF:22:93
errno N 0
errstr T Success
`;

/** The guide's feature masks with the bits listed below each (lines 756, 933, 960, 2176, 2180 twice, 2461). */
export const FEATURE_MASKS: readonly (readonly [mask: bigint, bits: readonly number[]])[] = [
  [
    0x8b00_0377_00ef_982fn,
    [0, 1, 2, 3, 5, 11, 12, 15, 16, 17, 18, 19, 21, 22, 23, 32, 33, 34, 36, 37, 38, 40, 41, 56, 57, 59, 63],
  ],
  [
    0x8930_0323_00ef_182fn,
    [0, 1, 2, 3, 5, 11, 12, 16, 17, 18, 19, 21, 22, 23, 32, 33, 37, 40, 41, 52, 53, 56, 59, 63],
  ],
  [0x8000_0023_00ef_182fn, [0, 1, 2, 3, 5, 11, 12, 16, 17, 18, 19, 21, 22, 23, 32, 33, 37, 63]],
  [0x8900_0103_00e7_182fn, [0, 1, 2, 3, 5, 11, 12, 16, 17, 18, 21, 22, 23, 32, 33, 40, 56, 59, 63]],
  [
    0x8900_0323_00e7_982fn,
    [0, 1, 2, 3, 5, 11, 12, 15, 16, 17, 18, 21, 22, 23, 32, 33, 37, 40, 41, 56, 59, 63],
  ],
  [
    0x8930_0127_00e7_182fn,
    [0, 1, 2, 3, 5, 11, 12, 16, 17, 18, 21, 22, 23, 32, 33, 34, 37, 40, 52, 53, 56, 59, 63],
  ],
  [0x8000_0023_00e7_982fn, [0, 1, 2, 3, 5, 11, 12, 15, 16, 17, 18, 21, 22, 23, 32, 33, 37, 63]],
];

/** Names the original gives to bits, where the full list and the query example have them. */
export const FEATURE_NAMES = `
0 VIRTIO_NET_F_CSUM
1 VIRTIO_NET_F_GUEST_CSUM
2 VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
3 VIRTIO_NET_F_MTU
5 VIRTIO_NET_F_MAC
11 VIRTIO_NET_F_HOST_TSO4
12 VIRTIO_NET_F_HOST_TSO6
15 VIRTIO_F_MRG_RX_BUFFER
16 VIRTIO_NET_F_STATUS
17 VIRTIO_NET_F_CTRL_VQ
18 VIRTIO_NET_F_CTRL_RX
19 VIRTIO_NET_F_CTRL_VLAN
21 VIRTIO_NET_F_GUEST_ANNOUNCE
22 VIRTIO_NET_F_MQ
23 VIRTIO_NET_F_CTRL_MAC_ADDR
32 VIRTIO_F_VERSION_1
33 VIRTIO_F_IOMMU_PLATFORM
34 VIRTIO_F_RING_PACKED
36 VIRTIO_F_ORDER_PLATFORM
37 VIRTIO_F_SR_IOV
38 VIRTIO_F_NOTIFICATION_DATA
40 VIRTIO_F_RING_RESET
41 VIRTIO_F_ADMIN_VQ
52 VIRTIO_NET_F_VQ_NOTF_COAL
53 VIRTIO_NET_F_NOTF_COAL
56 VIRTIO_NET_F_HOST_USO
57 VIRTIO_NET_F_HASH_REPORT
59 VIRTIO_NET_F_GUEST_HDRLEN
63 VIRTIO_NET_F_SPEED_DUPLEX
`;

/** `virtnet stats -p 0 -q 0`, one queue without its first key, `VQ Index` N 0 (guide, lines 1104 to 1142). */
export const STATS_QUEUE = `
rx_64_or_less_octet_packets N 0
rx_65_to_127_octet_packets N 259
rx_128_to_255_octet_packets N 0
rx_256_to_511_octet_packets N 0
rx_512_to_1023_octet_packets N 0
rx_1024_to_1522_octet_packets N 0
rx_1523_to_2047_octet_packets N 0
rx_2048_to_4095_octet_packets N 199
rx_4096_to_8191_octet_packets N 0
rx_8192_to_9022_octet_packets N 0
received_desc D 4096
completed_desc D 0
bad_desc_errors D 0
error_cqes D 0
exceed_max_chain D 0
invalid_buffer D 0
batch_number D 64
dma_q_used_number D 0
handler_schd_number D 44
aux_handler_schd_number D 43
max_post_desc_number D 0
total_bytes D 0
err_handler_schd_num D 0
rq_cq_max_count D 0
rq_cq_period D 0
rq_cq_period_mode D 1
`;

/** `mlxconfig -e q` filtered for asterisks (guide, lines 267 to 278): name, default, current and next boot. */
export const FIRMWARE_ROWS = `
*        PER_PF_NUM_SF                               False(0)        True(1)         True(1)
*        NUM_OF_VFS                                  16              0               0
*        PF_BAR2_ENABLE                              True(1)         False(0)        False(0)
*        PCI_SWITCH_EMULATION_NUM_PORT               0               8               8
*        PCI_SWITCH_EMULATION_ENABLE                 False(0)        True(1)         True(1)
*        VIRTIO_NET_EMULATION_ENABLE                 False(0)        True(1)         True(1)
*        VIRTIO_NET_EMULATION_NUM_VF                 0               126             126
*        VIRTIO_NET_EMULATION_NUM_PF                 0               1               1
*        VIRTIO_NET_EMULATION_NUM_MSIX               2               64              64
*        VIRTIO_NET_EMULATION_NUM_VF_MSIX            0               64              64
*        PF_TOTAL_SF                                 0               508             508
*        PF_SF_BAR_SIZE                              0               8               8
`;

/** One line of a shape. */
export interface ShapeRow {
  readonly key: string;
  readonly kind: string;
  readonly value: string;
}

/** The rows of a shape above. */
export function shapeRows(shape: string): ShapeRow[] {
  return shape
    .trim()
    .split('\n')
    .map((line) => {
      const [, key, kind, value] = /^(\S+) (\S)(?: (.*))?$/.exec(line)!;
      return { key: key!, kind: kind!, value: value ?? '' };
    });
}
