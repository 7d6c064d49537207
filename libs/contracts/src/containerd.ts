// containerd's own interfaces, for those who serve them (third_party/README.md).

export {
  type Info,
  InfoSchema,
  Kind,
  Snapshots,
} from "./gen/containerd/services/snapshots/v1/snapshots_pb.js";
export { type Mount, MountSchema } from "./gen/containerd/types/mount_pb.js";
