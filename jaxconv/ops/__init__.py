"""Pure functions of arrays, channels last."""

from jaxconv.ops.conv import *
from jaxconv.ops.dense import *
from jaxconv.ops.dropin import *
from jaxconv.ops.dropout import *
from jaxconv.ops.norm import *
from jaxconv.ops.pad import *
from jaxconv.ops.pool import *
from jaxconv.ops.resize import *
