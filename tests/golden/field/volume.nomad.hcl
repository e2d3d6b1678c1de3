# A volume as Nomad's operators write it: `nomad volume create` sends parameters, `nomad volume register` sends the
# context of an image that exists.
id           = "database[0]"
name         = "database"
type         = "csi"
plugin_id    = "ceph-csi"
external_id  = "made-by-hand"
capacity_min = "1GiB"
capacity_max = "4GiB"

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "block-device"
}

mount_options {
  fs_type     = "ext4"
  mount_flags = ["noatime"]
}

secrets {
  userID  = "admin"
  userKey = "(the key)"
}

parameters {
  clusterID     = "east"
  pool          = "rbd"
  imageFeatures = "layering"
  mkfsOptions   = "-t ext4"
}

context {
  clusterID     = "east"
  pool          = "rbd"
  imageFeatures = "layering"
  staticVolume  = "true"
}
