"""Registration: any metric, any transform, one optimisation loop."""

from regsim.registration.driver import Registration as Registration
from regsim.registration.driver import register as register
from regsim.registration.schedule import Schedule as Schedule
from regsim.registration.schedule import schedule_for as schedule_for
